"""A domain's one normal form: lower-case A-labels, no trailing dot. `MÜNCHEN.de.` and `xn--mnchen-3ya.de` are one."""

from __future__ import annotations

import re
from functools import lru_cache

import idna

from mailcore.kit.errors import Invalid

MAX_DOMAIN = 253
"""Octets of a name without its trailing dot (RFC 1035 §2.3.4: 255 on the wire, lengths and root counted)."""
MAX_LABEL = 63

_LDH = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LDH}(?:\.{_LDH})*\Z")
_SERVICE_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_SERVICE = re.compile(rf"{_SERVICE_LABEL}(?:\.{_SERVICE_LABEL})*\Z")


def normalize_domain(text: str, *, underscore: bool = False) -> str:
    """The normal form of a domain name; one trailing dot is taken off.

    `underscore` also takes names such as `_dmarc.example.com`, which no host and no mail domain may have (RFC 952).
    Raises Invalid: empty or overlong labels, characters outside letters, digits and hyphen after IDNA mapping, broken
    A-labels, and IP addresses (a last label of digits only, RFC 3696 §2; brackets).
    """
    name = text[:-1] if text.endswith(".") else text
    if not name or len(name) > MAX_DOMAIN:
        raise Invalid(f"A domain name has 1 to {MAX_DOMAIN} characters.")
    if not name.isascii() or "xn--" in name.lower():
        name = _to_alabels(name)
    if not (_SERVICE if underscore else _HOST).match(name) or len(name) > MAX_DOMAIN:
        raise Invalid(f"{_shown(text)} is not a domain name.")
    if name.rpartition(".")[2].isdigit():
        raise Invalid(f"{_shown(text)} is an IP address, not a domain name.")
    return name.lower()


def is_domain(text: str) -> bool:
    try:
        normalize_domain(text)
    except Invalid:
        return False
    return True


def is_host(name: str) -> bool:
    """Whether a name in the DNS can be a host's: letters, digits, hyphens (RFC 1123 §2.1), and underscores, which some have.

    A-labels are not judged: who looks a host up takes them as they stand (RFC 5891 §5.3).
    """
    return len(name) <= MAX_DOMAIN and _SERVICE.match(name) is not None and not name.rpartition(".")[2].isdigit()


@lru_cache(maxsize=16_384)
def _to_alabels(name: str) -> str:
    # UTS 46 maps case, width and the other full stops first; then IDNA 2008 judges each label (RFC 5891 §4, §5).
    # A-labels are decoded and encoded again, so that one which stands for nothing valid is refused.
    try:
        return ".".join(
            label if label.isascii() and not label.startswith("xn--") else idna.alabel(label).decode("ascii")
            for label in idna.uts46_remap(name, std3_rules=False).split(".")
        )
    except (idna.IDNAError, UnicodeError, ValueError, IndexError) as error:
        raise Invalid(f"{_shown(name)} is not a valid internationalized domain name.") from error


def _shown(text: str) -> str:
    return ascii(text[:80])
