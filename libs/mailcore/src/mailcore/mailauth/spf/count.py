"""How many DNS lookups evaluating a domain's SPF record takes: past ten, receivers call it a permanent error (RFC 7208 §4.6.4).

Terms that ask the DNS: include, a, mx, ptr, exists and the modifier redirect. include and redirect are followed and their
terms counted too; a name without an answer is a void lookup, of which two are allowed. Counting assumes that no term matches
before the last, as it is for mail from an address that the record does not name. Nothing here blocks: the record is hostile.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from mailcore.dns.names import is_domain
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.verdict import is_spf

MAX_LOOKUPS = 10
MAX_VOID = 2
MAX_MX = 10
COUNTED_MOST = 40
"""Beyond this nothing more is asked: it is four times too many."""
MAX_DEPTH = 10
_TERM = re.compile(r"[+?~-]?(include|a|mx|ptr|exists|redirect)([:=/].*)?\Z", re.IGNORECASE)


@dataclass(slots=True)
class Count:
    lookups: int = 0
    void: int = 0
    records: int = 1
    """SPF records at the name: more than one is an error (§4.5)."""
    wide_mx: bool = False
    """An mx term finds more than ten hosts: an error too."""
    loop: bool = False
    """A record includes itself."""
    incomplete: bool = False
    """The DNS did not answer for a part, or there was more than is counted: the true number is higher."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def count_lookups(name: str, resolver: Resolver) -> Count | None:
    """None: the domain has no SPF record, or the DNS did not tell."""
    try:
        texts = [text for text in (await resolver.txt(name)).values if is_spf(text)]
    except (NoSuchDomain, TemporaryDNSError):
        return None
    if not texts:
        return None
    count = Count(records=len(texts))
    await _count(texts[0], name, (name,), resolver, count)
    return count


async def _count(text: str, name: str, above: tuple[str, ...], resolver: Resolver, count: Count) -> None:
    terms = text.split()[1:]
    everything = any(term.lstrip("+?~-").lower() == "all" for term in terms)
    for term in terms:
        match = _TERM.match(term)
        if match is None:
            continue
        kind, target = match[1].lower(), _target(match[2] or "", name)
        if (kind == "redirect") != (match[2] or "").startswith("=") or (kind == "redirect" and everything):
            continue  # an unknown modifier (§6); beside `all` a redirect is ignored (§6.1)
        if count.lookups >= COUNTED_MOST:
            count.incomplete = True
            return
        count.lookups += 1
        if target is None:  # a macro: what it asks for depends on the mail (§7)
            continue
        if kind in ("include", "redirect"):
            await _follow(target, above, resolver, count)
        elif kind != "ptr":  # ptr asks for the sender's address
            await _ask(kind, target, resolver, count)


async def _follow(target: str, above: tuple[str, ...], resolver: Resolver, count: Count) -> None:
    if target in above or len(above) > MAX_DEPTH:
        count.loop = True
        return
    try:
        texts = (await resolver.txt(target)).values
    except NoSuchDomain:
        texts = ()
    except TemporaryDNSError:
        count.incomplete = True
        return
    if not texts:
        count.void += 1
    for text in [text for text in texts if is_spf(text)][:1]:
        await _count(text, target, (*above, target), resolver, count)


async def _ask(kind: str, target: str, resolver: Resolver, count: Count) -> None:
    try:
        if kind == "mx":
            found: tuple[object, ...] = (await resolver.mx(target)).values
            count.wide_mx |= len(found) > MAX_MX
        else:  # §5.7: exists asks for A, whatever the connection is
            found = (await resolver.a(target)).values
            if not found and kind == "a":
                found = (await resolver.aaaa(target)).values
    except NoSuchDomain:
        found = ()
    except TemporaryDNSError:
        count.incomplete = True
        return
    if not found:
        count.void += 1


def _target(rest: str, name: str) -> str | None:
    """The name that a term asks for; None where it is a macro or no name."""
    text = rest[1:] if rest[:1] in (":", "=") else ""
    text = text.partition("/")[0].rstrip(".").lower()
    if rest[:1] in ("", "/"):
        return name
    return text if "%" not in text and is_domain(text.replace("_", "x")) else None
