"""MTA-STS: the TXT record that announces a policy, and the policy (RFC 8461). Reading of others', writing of our own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailcore.dns.names import is_domain

PREFIX = "mta-sts."
"""Of the host that serves a domain's policy (RFC 8461 §3.3)."""
RECORD_PREFIX = "_mta-sts."
PATH = "/.well-known/mta-sts.txt"
MAX_POLICY = 64 * 1024
"""Octets, the limit that RFC 8461 §3.3 proposes."""
MAX_HOSTS = 100
MAX_AGE = 31_557_600
"""Seconds (RFC 8461 §3.2)."""
MODES = ("enforce", "testing", "none")

_RECORD = re.compile(r"v=STSv1[ \t]*;[ \t]*(.*)\Z", re.DOTALL)
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*:[ \t]*(.*?)[ \t]*\Z")


class BrokenPolicy(ValueError):
    """What is wrong with it, in a line."""


@dataclass(frozen=True, slots=True)
class StsPolicy:
    mode: str
    mx: tuple[str, ...]
    """Patterns in lower case: a host, or `*.` and a domain."""
    max_age: int
    """Seconds that it may be kept."""

    def covers(self, host: str) -> bool:
        """Whether mail may go to that host. A wildcard stands for exactly one label, the leftmost (RFC 8461 §4.1)."""
        host = host.lower().removesuffix(".")
        parent = host.partition(".")[2]
        return any(pattern == host or (pattern[:2] == "*." and pattern[2:] == parent) for pattern in self.mx)

    @property
    def lines(self) -> list[str]:
        return [
            "version: STSv1",
            f"mode: {self.mode}",
            *(f"mx: {pattern}" for pattern in self.mx),
            f"max_age: {self.max_age}",
        ]

    @property
    def text(self) -> str:
        return "".join(f"{line}\r\n" for line in self.lines)

    @property
    def id(self) -> str:
        """For the TXT record of a policy of our own: another policy has another one."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:24]


def read_record(texts: Sequence[str]) -> str | None:
    """The policy's id out of the TXT records at `_mta-sts.<domain>`; None: the domain announces no policy (RFC 8461 §3.1)."""
    found = [match[1] for text in texts if (match := _RECORD.match(text))]
    if len(found) != 1:  # several are as good as none
        return None
    for field in found[0].split(";"):
        name, equals, value = field.strip(" \t").partition("=")
        if name == "id" and equals:
            return value if _ID.match(value) else None
    return None


def read_policy(octets: bytes) -> StsPolicy:
    """Raises BrokenPolicy."""
    if len(octets) > MAX_POLICY:
        raise BrokenPolicy(f"the policy has more than {MAX_POLICY} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise BrokenPolicy("the policy is no UTF-8") from None
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if not line.strip(" \t"):
            continue
        field = _FIELD.match(line)
        if field is None:
            raise BrokenPolicy(f"the policy has a line that is no field: {line[:60]!a}")
        if field[1] == "mx":
            patterns.append(_pattern(field[2]))
        else:
            fields.setdefault(field[1], field[2])  # RFC 8461 §3.2: of repeated fields the first counts
    if fields.get("version") != "STSv1":
        raise BrokenPolicy("the policy does not say `version: STSv1`")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in MODES:
        raise BrokenPolicy("the policy's mode is none of enforce, testing and none")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise BrokenPolicy("the policy's max_age is no number of seconds")
    if not patterns and mode != "none":
        raise BrokenPolicy("the policy names no mx")
    if len(patterns) > MAX_HOSTS:
        raise BrokenPolicy(f"the policy names more than {MAX_HOSTS} mx")
    return StsPolicy(mode, tuple(patterns), min(int(age), MAX_AGE))


def _pattern(text: str) -> str:
    pattern = text.lower().removesuffix(".")
    if not is_domain(pattern.removeprefix("*.")):
        raise BrokenPolicy(f"the policy has an mx that is no host: {text[:60]!a}")
    return pattern
