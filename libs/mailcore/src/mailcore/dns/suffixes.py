"""Where names are registered: `co.uk` is a public suffix, `example.co.uk` a registered domain (publicsuffix.org, ICANN section)."""

from __future__ import annotations

from functools import lru_cache

from publicsuffixlist import PublicSuffixList


def is_public_suffix(name: str) -> bool:
    """Whether anybody may register names below it, so that it is nobody's own. `name` in normal form; unknown TLDs count."""
    return registered_domain(name) is None


def registered_domain(name: str) -> str | None:
    """The part that somebody has registered, usually a DNS zone: `example.co.uk` of `a.example.co.uk`. None: a public suffix."""
    found: str | None = _list().privatesuffix(name)
    return found


@lru_cache(maxsize=1)
def _list() -> PublicSuffixList:
    return PublicSuffixList(only_icann=True)  # reading it takes some 30 ms
