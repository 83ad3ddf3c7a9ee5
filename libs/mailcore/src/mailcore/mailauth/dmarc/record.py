"""Policy records: the TXT record at `_dmarc.<domain>` (RFC 9989 §4.7, §4.8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

PREFIX = "_dmarc."
MAX_RECORD = 4_096
"""Characters that are read."""
MAX_URIS = 10


class Policy(StrEnum):
    """What a domain asks for mail that fails, from the mildest."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"

    @property
    def milder(self) -> Policy:
        """The level below it (RFC 9989 §4.7, t=)."""
        return Policy.QUARANTINE if self is Policy.REJECT else Policy.NONE


@dataclass(frozen=True, slots=True)
class ReportUri:
    uri: str
    """`mailto:…`, decoded no further."""
    most: int = 0
    """Octets that it takes, of records of RFC 7489 (§6.2); 0: it does not say."""

    @property
    def address(self) -> str | None:
        scheme, _, rest = self.uri.partition(":")
        return unquote(rest.partition("?")[0]) if scheme.lower() == "mailto" else None


@dataclass(frozen=True, slots=True)
class Record:
    p: Policy
    sp: Policy | None = None
    """Of names below that exist; None: as p."""
    np: Policy | None = None
    """Of names below that do not exist; None: as sp."""
    strict_dkim: bool = False
    strict_spf: bool = False
    psd: str = "u"
    """`y`: a public suffix, `n`: an organizational domain, `u`: not said."""
    testing: bool = False
    """t=y: not yet to be applied in full."""
    pct: int = 100
    """Of how many mails in a hundred the policy is asked for: RFC 7489 §6.3, gone since; 100 where t= is given."""
    rua: tuple[ReportUri, ...] = ()
    ruf: tuple[ReportUri, ...] = ()
    fo: frozenset[str] = frozenset("0")

    def policy(self, *, below: bool, exists: bool) -> tuple[str, Policy]:
        """The tag that counts and what it says. `below`: the record is that of a name above the author's (RFC 9989 §4.10.1)."""
        if below and not exists and self.np is not None:
            return "np", self.np
        if below and self.sp is not None:
            return "sp", self.sp
        return "p", self.p


_VERSION = re.compile(r"[ \t]*v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_SIZE = re.compile(r"[ \t]*(\d{1,12})[ \t]*([kmgt]?)[ \t]*\Z", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def is_record(text: str) -> bool:
    """v= comes first and is exactly DMARC1; anything else is not ours to read."""
    return _VERSION.match(text) is not None


def only(texts: Sequence[str]) -> Record | None:
    """The record among a name's TXT records; None: there is none, or several, which are as none (RFC 9989 §4.10, step 2)."""
    found = [text for text in texts if is_record(text)]
    return parse(found[0]) if len(found) == 1 else None


@lru_cache(maxsize=4_096)
def parse(text: str) -> Record | None:
    """Unknown tags and broken values are as if they were not there, of a tag that stands twice the first counts.

    None: no record; or a policy in it is none of the three and nobody would get reports (RFC 9989 §4.10.1).
    """
    if not is_record(text):
        return None
    tags: dict[str, str] = {}
    for piece in text[:MAX_RECORD].split(";")[1:]:
        name, equals, value = piece.partition("=")
        if equals:
            tags.setdefault(name.strip(" \t").lower(), value.strip(" \t"))
    rua = _uris(tags.get("rua", ""))
    policies: dict[str, Policy | None] = {}
    for name in ("p", "sp", "np"):
        value = tags.get(name, "").lower()
        policies[name] = Policy(value) if value in set(Policy) else None
    if any(name in tags and policies[name] is None for name in policies):
        if not rua:
            return None
        policies = {"p": Policy.NONE, "sp": None, "np": None}
    psd = tags.get("psd", "u").lower()
    pct = tags.get("pct", "")
    return Record(
        p=policies["p"] or Policy.NONE,
        sp=policies["sp"],
        np=policies["np"],
        strict_dkim=tags.get("adkim", "").lower() == "s",
        strict_spf=tags.get("aspf", "").lower() == "s",
        psd=psd if psd in ("y", "n") else "u",
        testing=tags.get("t", "").lower() == "y",
        pct=min(int(pct), 100) if re.fullmatch(r"\d{1,3}", pct, re.ASCII) and "t" not in tags else 100,
        rua=rua,
        ruf=_uris(tags.get("ruf", "")),
        fo=_failure_options(tags.get("fo", "0")),
    )


def _uris(value: str) -> tuple[ReportUri, ...]:
    found = []
    for text in value.split(","):
        uri, bang, size = text.strip(" \t").partition("!")
        uri, match = uri.rstrip(" \t"), _SIZE.match(size) if bang else None
        scheme, colon, rest = uri.partition(":")
        if colon and scheme.isalnum() and rest and len(uri) <= 1_000 and uri.isprintable() and " " not in uri:
            found.append(ReportUri(uri, int(match[1]) * _UNITS[match[2].lower()] if match else 0))
    return tuple(found[:MAX_URIS])


def _failure_options(value: str) -> frozenset[str]:
    return frozenset(each for word in value.split(":") if (each := word.strip(" \t").lower()) in ("0", "1", "d", "s"))
