"""Mail that a provider took and never reported: after three days a row says so, once, and nothing is claimed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

from fakes.provider_api import ProviderApi
from fakes.smtp_server import SmtpServer
from integration.outbound.test_ways import Run, Setup, by, setup
from mailcore.blob.local import LocalBlobs
from mailcore.flow.upkeep import upkeep, upkeep_at
from mailcore.store import explain, provider_events
from mailcore.store.session import Store

__all__ = ["setup"]
WEEK = 7 * 86_400.0


async def taken(setup: Setup, outbound: Run, sink: SmtpServer, *to: str) -> tuple[UUID, list[UUID]]:
    """Mails that Resend took, and the way."""
    async with ProviderApi("resend") as api:
        way = await setup.way("resend")
        await setup.route(way)
        async with outbound(sink, **by(api)):
            ids = await setup.tenant.send_each([[each] for each in to])
            for id_ in ids:
                await setup.tenant.state(id_, "relayed")
    return way, ids


async def age(admin: asyncpg.Connection, days: float, *ids: UUID) -> None:
    await admin.execute(
        "UPDATE attempts SET at = now() - make_interval(secs => $1) WHERE email_id = ANY ($2::uuid[])",
        days * 86_400,
        list(ids),
    )


async def test_it_is_said_once_and_a_late_report_still_counts(
    setup: Setup, outbound: Run, sink: SmtpServer, store: Store, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    tenant, blobs = setup.tenant, LocalBlobs(tmp_path)
    way, (silent, told, young) = await taken(setup, outbound, sink, "a@example.com", "b@example.com", "c@example.com")
    assert await setup.report(way, "resend", "delivered", told, "b@example.com") == 1
    assert (await upkeep(store, blobs, lifetime_seconds=WEEK)).unreported == 0
    await age(admin, 3.1, silent, told)
    await age(admin, 2.9, young)
    assert (await upkeep(store, blobs, lifetime_seconds=WEEK)).unreported == 1
    for _ in range(2):  # hourly, and once more
        assert (await upkeep(store, blobs, lifetime_seconds=WEEK)).unreported == 0

    first, second = await tenant.attempts(silent)
    assert (first["outcome"], first["rule"], second["outcome"], second["rule"]) == (
        "relayed",
        None,
        "relayed",
        "no-report",
    )
    assert second["reply"] == "no report within 3 days: whether it was delivered is not known"
    assert second["site"] == f"resend:{way}" and second["code"] is None
    delivery = await tenant.delivery(silent)
    assert (delivery["state"], delivery["last_event"]) == ("relayed", "sent")
    assert [event["type"] for event in await tenant.events(silent)] == ["email.sent"]
    async with store.tenant(tenant.org_id) as db:
        [shown] = await explain.deliveries(db, silent)
    assert shown["state"] == "relayed" and shown["attempts"][-1]["rule"] == "no-report"
    assert [len(await tenant.attempts(each)) for each in (told, young)] == [2, 1]

    # better late than never
    assert await setup.report(way, "resend", "delivered", silent, "a@example.com", id_="2") == 1
    assert (await tenant.delivery(silent))["state"] == "delivered"
    assert [row["rule"] for row in await tenant.attempts(silent)] == [None, "no-report", "report"]

    # the third one's turn comes, by another setting
    done = await upkeep(store, blobs, lifetime_seconds=WEEK, relayed_seconds=86_400.0)
    assert done.unreported == 1
    assert (await tenant.attempts(young))[-1]["reply"].startswith("no report within 1 days")


async def test_many_are_gone_through_in_steps_and_those_of_one_moment_together(
    setup: Setup,
    outbound: Run,
    sink: SmtpServer,
    store: Store,
    admin: asyncpg.Connection,
    tmp_path: Path,
) -> None:
    _, ids = await taken(setup, outbound, sink, *(f"u{n}@example.com" for n in range(9)))
    for n, chunk in enumerate((ids[:1], ids[1:5], ids[5:])):
        await age(admin, 5 - n / 10, *chunk)
    async with store.worker() as db:
        assert (await provider_events.silent(db, datetime.now(UTC), "words", 2))[0] == 5, "1, and 4 of one moment"
    later = datetime.now(UTC) + timedelta(days=10)
    done = await upkeep_at(store, LocalBlobs(tmp_path), later, lifetime_seconds=WEEK, silent_batch=2)
    assert done.unreported == 4
    assert await admin.fetchval("SELECT count(*) FROM attempts WHERE rule = 'no-report'") == 9
