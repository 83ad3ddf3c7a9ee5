"""Mail whose time is over expires; mail that nobody had the time to try does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from mailcore.blob.local import LocalBlobs
from mailcore.flow import settle
from mailcore.flow.submit import NewEmail, Submits
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store import sites
from mailcore.store.session import Store


async def test_mail_that_waited_for_us_and_not_for_its_site_does_not_expire(
    store: Store, ringer: Ringer, tmp_path: Path, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    """outbound was down, or the retry schedule is shorter than the queue: the next claim tries it."""
    submits = Submits(store, ringer, LocalBlobs(tmp_path))
    for name in ("healthy.example", "down.example", "shaky.example"):
        to = f"you@{name}"
        email = NewEmail("us@postroom.test", "postroom.test", [to], [parse_address(to)], "Hi", text="Hi")
        await submits.submit(org, [email], door="test")
    async with store.worker() as db:
        for name in ("down.example", "shaky.example"):
            site = await admin.fetchval("SELECT site_id FROM recipient_domains WHERE domain = $1", name)
            await sites.suspend(db, site, "nobody there", first=30, longest=900)
        await sites.note(db, [sites.Note(site, True, [])])
    assert await settle.expire(store, datetime.now(UTC) + timedelta(minutes=1)) == (1, 0)
    states = {row["recipient"]: row["state"] for row in await admin.fetch("SELECT recipient, state FROM deliveries")}
    assert states == {
        "you@healthy.example": "queued",
        "you@down.example": "expired",
        "you@shaky.example": "queued",  # it took a mail a moment ago
    }
    await admin.execute("UPDATE sites SET heard_at = heard_at - interval '2 hours'")
    assert await settle.expire(store, datetime.now(UTC) + timedelta(minutes=1)) == (1, 0)
