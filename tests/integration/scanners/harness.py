"""Mail that is taken, routed and scanned, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from inbound_smtp.checks.scanning import Scanned
from inbound_smtp.router import Router
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.scan import Scans
from mailcore.kit.ids import uuid7
from mailcore.smtp.envelope import Envelope

MAIL = (
    b"From: Ann <ann@sender.example>\r\nTo: support@postroom.test\r\nSubject: Minutes\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
    b"Message-ID: <%s@sender.example>\r\n\r\n--b\r\n\r\n%s\r\n\r\n"
    b"--b\r\nContent-Type: application/pdf; name=minutes.pdf\r\nContent-Disposition: attachment; filename=minutes.pdf\r\n\r\n"
    b"%%PDF-1.7\r\n--b--\r\n"
)
TO = "support@postroom.test"
FACTS = {"peer_ip": "192.0.2.7", "helo": "mx.sender.example", "protocol": "ESMTPS", "by": "mx.postroom.test"}


def mail(text: bytes = b"Here they are.") -> bytes:
    """No two are one."""
    return MAIL % (uuid7().hex.encode(), text)


@dataclass(frozen=True, slots=True)
class Desk:
    admin: asyncpg.Connection
    org: UUID
    receives: Receives
    router: Router
    scans: Scans

    async def take(self, raw: bytes, *to: str, scanned: Scanned | None = None) -> UUID:
        """Taken, not yet routed. `scanned`: before the reply."""
        rcpt_to = to or (TO,)
        envelope = Envelope("ann@sender.example", rcpt_to)
        arrival = Arrival(raw, envelope, FACTS, "192.0.2.7", None, "smtp", {self.org: list(rcpt_to)})
        if scanned is not None:
            arrival = arrival._replace(findings=scanned.findings, decisions=scanned.decisions)
        return (await self.receives.receive(arrival)).ids[self.org]

    async def deliver(self, raw: bytes, *to: str) -> UUID:
        id_ = await self.take(raw, *to)
        await self.route()
        return id_

    async def route(self) -> None:
        while await self.router.work(None):
            pass

    async def again(self) -> None:
        """As if pending mail were due."""
        await self.admin.execute("UPDATE arrival_queue SET due_at = now() WHERE worker IS NULL")
        await self.route()

    async def want(self, name: str = "postroom.test", **settings: Any) -> None:
        """The domain's settings, known at once."""
        for column, value in settings.items():
            await self.admin.execute(f"UPDATE domains SET {column} = $2 WHERE name = $1", name, value)
        self.scans.policies._of._known.clear()

    async def row(self, arrival_id: UUID) -> asyncpg.Record:
        row = await self.admin.fetchrow("SELECT * FROM arrivals WHERE id = $1", arrival_id)
        assert row is not None
        return row

    async def state(self, arrival_id: UUID) -> str:
        """As the API calls it."""
        row = await self.row(arrival_id)
        return "pending" if row["pending"] is not None else str(row["state"])

    async def told(self, arrival_id: UUID) -> list[str]:
        """What was decided about scanning, in order."""
        return [one["decision"] for one in (await self.row(arrival_id))["decisions"] if one["step"] == "scan"]

    async def reasons(self, arrival_id: UUID) -> str:
        return "\n".join(one["reason"] for one in (await self.row(arrival_id))["decisions"])

    async def flags(self, arrival_id: UUID) -> list[list[str]]:
        """Of the messages that it became."""
        rows = await self.admin.fetch("SELECT flags FROM messages WHERE arrival_id = $1", arrival_id)
        return [row["flags"] for row in rows]


MakeDesk: TypeAlias = Callable[..., Desk]
