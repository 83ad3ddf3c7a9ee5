"""Whether a mail is from whom it says, asked before the reply: only where a recipient's domain may refuse it for that.

The one reply to a message is for all its recipients: it is refused when all of their domains refuse it. Taken for some, it is held
for the others (flow.authenticate).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from mailcore.blob.base import Spooled
from mailcore.flow.authenticate import Authenticator, DmarcPolicies, disposition, failure
from mailcore.smtp.reply import Reply

LARGE_AT_ONCE = 2
"""Messages that were too large for memory, and are in it here."""


@dataclass(frozen=True, slots=True)
class Asked:
    auth: dict[str, Any] | None
    """For the arrival. None: not asked, and routing does it."""
    refused: Reply | None = None


class BeforeReply:
    """One a process."""

    def __init__(self, authenticator: Authenticator, policies: DmarcPolicies) -> None:
        self._authenticator = authenticator
        self._policies = policies
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    def needless(self, tenants: Mapping[UUID, Sequence[str]]) -> bool:
        """It is known, without asking anybody, that no recipient's domain refuses. `tenants`: organization → its recipients."""
        return all(self._policies.held(*each) in ("tag", "quarantine") for each in _domains(tenants))

    async def ask(
        self,
        message: bytes | Spooled,
        *,
        peer_ip: str,
        helo: str,
        mail_from: str,
        tenants: Mapping[UUID, Sequence[str]],
    ) -> Asked:
        """Raises Unavailable when the domains' policies cannot be read, nothing for what the mail holds."""
        policies = await self._of(tenants)
        if "reject" not in policies:
            return Asked(None)
        if isinstance(message, bytes):
            found = await self._authenticator.check(message, peer_ip=peer_ip, helo=helo, mail_from=mail_from)
        else:
            async with self._large:
                raw = await asyncio.to_thread(message.read)
                found = await self._authenticator.check(raw, peer_ip=peer_ip, helo=helo, mail_from=mail_from)
        auth = found.json()
        if all(disposition(auth, policy) == "reject" for policy in policies):
            return Asked(auth, Reply(550, failure(auth), "5.7.1"))
        return Asked(auth)

    async def _of(self, tenants: Mapping[UUID, Sequence[str]]) -> set[str]:
        return {await self._policies.of(*each) for each in _domains(tenants)}


def _domains(tenants: Mapping[UUID, Sequence[str]]) -> set[tuple[UUID, str]]:
    return {(org_id, each.rpartition("@")[2].lower()) for org_id, mine in tenants.items() for each in mine}
