"""What scanners say of a mail, asked before the reply: only where a recipient's domain may refuse it for that.

The one reply to a message is for all its recipients: it is refused when all of their domains refuse it. Taken for some, it is held
for the others; and where no scanner answers now, or all are busy for longer than a client can be asked to wait, it is taken, and
what it waits for is found out in routing (flow.scan).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.blob.base import Spooled
from mailcore.flow.in_hand import InHand
from mailcore.flow.parse import Reader
from mailcore.flow.scan import Scans, refusal
from mailcore.flow.scan_policy import Policy
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.scanners.base import Verdict
from mailcore.smtp.reply import Reply
from mailcore.store.arrivals import Stored

log = logger(__name__)

SECONDS = 60.0
"""How long a client waits for this, with what it waits for its turn; clients give up after ten minutes (RFC 5321 §4.5.3.2.6)."""
LARGE_AT_ONCE = 2
"""Messages that were too large for memory, and are in it here."""


@dataclass(frozen=True, slots=True)
class Scanned:
    findings: list[dict[str, Any]] | None = None
    """For the arrival: who has answered is not asked again."""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    refused: Reply | None = None


class ScansBeforeReply:
    """One a process."""

    def __init__(self, scans: Scans, reader: Reader, *, seconds: float = SECONDS) -> None:
        self._scans = scans
        self._reader = reader
        self._seconds = seconds
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    def needless(self, tenants: Mapping[UUID, Sequence[str]]) -> bool:
        """It is known, without asking anybody, that no recipient's domain refuses. `tenants`: organization → its recipients."""
        if not self._scans.on:
            return True
        held = (
            self._scans.policies.held(org_id, each.rpartition("@")[2].lower())
            for org_id, mine in tenants.items()
            for each in mine
        )
        return all(policy is not None and not policy.refuses for policy in held)

    async def ask(
        self,
        message: bytes | Spooled,
        *,
        source: str,
        mail_from: str,
        facts: dict[str, Any],
        auth: dict[str, Any] | None,
        tenants: Mapping[UUID, Sequence[str]],
    ) -> Scanned:
        """Raises Unavailable when the domains' settings cannot be read, nothing for what the mail holds or a scanner does."""
        policies = [
            policy
            for org_id, mine in tenants.items()
            for policy in (await self._scans.policies.of(org_id, mine)).values()
        ]
        if not any(policy.refuses for policy in policies):
            return Scanned()
        row = Stored(
            id=uuid7(),
            org_id=next(iter(tenants)),
            door="smtp",
            source=source,
            mail_from=mail_from,
            rcpt_to=tuple(each for mine in tenants.values() for each in mine),
            facts=facts,
            state="received",
            size=len(message) if isinstance(message, bytes) else message.size,
            raw=None,
            raw_blob=None,
            auth=auth,
            created_at=datetime.now(UTC),
        )
        try:
            async with asyncio.timeout(self._seconds):
                if isinstance(message, bytes):
                    return await self._look(row, message, policies)
                async with self._large:
                    return await self._look(row, await asyncio.to_thread(message.read), policies)
        except TimeoutError:
            log.warning(
                "a mail is taken without having been scanned before the reply", peer=source, seconds=self._seconds
            )
            return Scanned()

    async def _look(self, row: Stored, raw: bytes, policies: Sequence[Policy]) -> Scanned:
        mail = InHand(row, raw, await self._reader.summary(raw), auth=row.auth)
        await self._scans.ask(mail, policies)
        why = refusal(mail.findings, policies)
        if why:
            return Scanned(refused=Reply(550, why, "5.7.1"))
        said = [one.json() for one in mail.findings if one.verdict is not Verdict.UNAVAILABLE]
        return Scanned(said or None, mail.decisions)
