"""What a domain wants of spam and malware: which points are spam, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from mailcore.kit.remember import Remembered
from mailcore.mime.marks import SPAM_SCL
from mailcore.scanners.base import Finding, Verdict
from mailcore.store import domains
from mailcore.store.session import Store

REMEMBERED_SECONDS = 4.0
"""A setting of a domain that is changed counts within five seconds."""
BY_POINTS = frozenset(("spamd",))
"""Whose scores are SpamAssassin's points: what is spam by them, its domain says."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a domain wants. Columns of `domains`."""

    spam_action: str = "junk"
    """tag, junk, quarantine, reject."""
    spam_score: float = 12.0
    """SpamAssassin's points from which on mail is spam …"""
    unsure_score: float = 5.0
    """… and from which on nobody knows."""
    malware_action: str = "quarantine"
    """tag, quarantine, reject."""
    subject_tag: str | None = None
    """Before the subject of spam that is passed on."""
    compatible_headers: bool = False
    """Mail that is passed on has the fields of others, too (mime.marks)."""
    scl: int = SPAM_SCL
    """The installation's: Exchange's level of spam in them."""

    @property
    def refuses(self) -> bool:
        """Something, before the reply."""
        return "reject" in (self.spam_action, self.malware_action)

    def verdict(self, found: Finding) -> Verdict:
        if found.scanner not in BY_POINTS or found.score is None or found.verdict is Verdict.SKIPPED:
            return found.verdict
        if found.score >= self.spam_score:
            return Verdict.SPAM
        return Verdict.UNSURE if found.score >= self.unsure_score else Verdict.CLEAN


class Policies:
    """Of our domains, remembered for a few seconds. One a process."""

    def __init__(self, store: Store, *, scl: int = SPAM_SCL) -> None:
        self._store = store
        self._scl = scl
        self._of: Remembered[tuple[UUID, str], Policy] = Remembered(self._ask, seconds=REMEMBERED_SECONDS)

    async def of(self, org_id: UUID, rcpt_to: Sequence[str]) -> dict[str, Policy]:
        """Domain → what it wants, of all recipients. Raises Unavailable."""
        names = dict.fromkeys(address.rpartition("@")[2].lower() for address in rcpt_to)
        return {name: await self._of.get((org_id, name)) or Policy() for name in names}

    def held(self, org_id: UUID, domain: str) -> Policy | None:
        """The same where it is known; None: it must be asked for."""
        return self._of.held((org_id, domain))

    async def _ask(self, key: tuple[UUID, str]) -> Policy | None:
        async with self._store.tenant(key[0]) as db:
            row = await domains.scan_policy(db, key[1])
        return None if row is None else Policy(**dict(row), scl=self._scl)


def strictest(policies: Iterable[Policy]) -> Policy:
    """By which routes see the mail: the lowest thresholds."""
    all_ = list(policies) or [Policy()]
    return Policy(
        spam_score=min(each.spam_score for each in all_), unsure_score=min(each.unsure_score for each in all_)
    )
