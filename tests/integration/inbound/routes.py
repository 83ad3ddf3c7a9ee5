"""What tests of routes share: a table written down, mail that goes through it, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from inbound_smtp.router import Router
from mailcore.flow.receive import Arrival, Receives
from mailcore.kit.ids import uuid7
from mailcore.smtp.envelope import Envelope

MAIL = (
    b"From: Jane <jane@sender.example>\r\nTo: support@postroom.test\r\nSubject: Invoice 17\r\n"
    b"Message-ID: <1@sender.example>\r\nX-Kind: bill\r\n\r\nHello\r\n"
)
FACTS = {"peer_ip": "192.0.2.7", "helo": "mx.sender.example", "protocol": "ESMTPS", "by": "mx.postroom.test"}


@dataclass(frozen=True, slots=True)
class Desk:
    """One organization's switchboard."""

    admin: asyncpg.Connection
    org: UUID
    receives: Receives
    router: Router

    async def table(self, *routes: dict[str, Any]) -> list[UUID]:
        """Replaces it, and every process knows it at once."""
        await self.admin.execute("DELETE FROM routes WHERE org_id = $1", self.org)
        ids = [uuid7() for _ in routes]
        for place, (id_, route) in enumerate(zip(ids, routes, strict=True), 1):
            await self.admin.execute(
                "INSERT INTO routes (id, org_id, position, name, match, except_, actions, stop) "
                "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                *(
                    id_,
                    self.org,
                    place,
                    route.get("name", f"route {place}"),
                    route.get("match", {}),
                    route.get("except"),
                ),
                *(route["actions"], route.get("stop", True)),
            )
        self.forget()
        return ids

    def forget(self) -> None:
        self.router._routes._tables._known.clear()

    async def take(self, raw: bytes = MAIL, *to: str, mail_from: str = "jane@sender.example") -> UUID:
        """Taken, not yet routed."""
        rcpt_to = to or ("support@postroom.test",)
        raw += b"%s\r\n" % uuid7().hex.encode()  # no two mails of a test are one
        arrival = Arrival(
            raw, Envelope(mail_from, rcpt_to), FACTS, "192.0.2.7", None, "smtp", {self.org: list(rcpt_to)}
        )
        return (await self.receives.receive(arrival)).ids[self.org]

    async def deliver(self, raw: bytes = MAIL, *to: str, mail_from: str = "jane@sender.example") -> UUID:
        id_ = await self.take(raw, *to, mail_from=mail_from)
        await self.route()
        return id_

    async def route(self) -> None:
        while await self.router.work(None):
            pass

    async def state(self, arrival_id: UUID) -> str:
        state: str = await self.admin.fetchval("SELECT state FROM arrivals WHERE id = $1", arrival_id)
        return state

    async def told(self, arrival_id: UUID, *steps: str) -> list[str]:
        """What was decided, in order."""
        decisions = await self.admin.fetchval("SELECT decisions FROM arrivals WHERE id = $1", arrival_id)
        return [one["decision"] for one in decisions if not steps or one["step"] in steps]

    async def boxes(self, arrival_id: UUID) -> list[str]:
        rows = await self.admin.fetch(
            "SELECT b.address FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id WHERE m.arrival_id = $1 ORDER BY 1",
            arrival_id,
        )
        return [row["address"] for row in rows]
