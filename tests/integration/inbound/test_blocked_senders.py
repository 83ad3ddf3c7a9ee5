"""F-23: mail of a blocked sender lies among the junk, and no route is tried for it."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.router import Router
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.store.session import Store

from .routes import MAIL, Desk


@pytest.fixture
async def desk(
    admin: asyncpg.Connection,
    org: UUID,
    domain: UUID,
    store: Store,
    receives: Receives,
    routes: Routes,
    lease: WorkerLease,
) -> Desk:
    return Desk(admin, org, receives, Router(store, lease, routes, batch=50))


async def block(desk: Desk, sender: str, mailbox: str | None = None) -> None:
    mailbox_id = None
    if mailbox is not None:
        mailbox_id = await desk.admin.fetchval("SELECT id FROM mailboxes WHERE address = $1", mailbox)
        assert mailbox_id is not None
    await desk.admin.execute(
        "INSERT INTO blocked_senders (id, org_id, mailbox_id, sender) VALUES ($1, $2, $3, $4)",
        *(uuid7(), desk.org, mailbox_id, sender),
    )
    desk.forget()


async def junk(desk: Desk, arrival: UUID) -> dict[str, bool]:
    rows = await desk.admin.fetch(
        "SELECT b.address, m.junk FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id WHERE m.arrival_id = $1",
        arrival,
    )
    return {row["address"]: row["junk"] for row in rows}


FORWARD = {"actions": [{"type": "store", "mailbox": "elsewhere@postroom.test"}]}


@pytest.mark.parametrize(
    "sender", ["jane@sender.example", "@sender.example", "@example"], ids=["address", "domain", "domain above"]
)
async def test_a_blocked_sender_triggers_no_route(desk: Desk, sender: str) -> None:
    await desk.table(FORWARD)
    await block(desk, sender)
    id_ = await desk.deliver()
    assert await junk(desk, id_) == {"support@postroom.test": True}
    assert await desk.told(id_, "block", "routes") == ["junk"]
    assert await desk.state(id_) == "routed"


async def test_who_is_meant_is_the_author_too_and_nobody_else(desk: Desk) -> None:
    await desk.table(FORWARD)
    await block(desk, "jane@sender.example")
    by_author = await desk.deliver(MAIL.replace(b"Jane <jane@", b"Jane <JANE@"), mail_from="bounce@elsewhere.example")
    assert await junk(desk, by_author) == {"support@postroom.test": True}
    for other in (b"xjane@sender.example", b"jane@sender.example.org"):
        raw = MAIL.replace(b"jane@sender.example", other)
        assert await junk(desk, await desk.deliver(raw, mail_from=other.decode())) == {"elsewhere@postroom.test": False}


@pytest.mark.parametrize("sender", ["@xn--bcher-kva.example", "jürgen@xn--bcher-kva.example"])
async def test_names_in_other_alphabets_are_the_same_names(desk: Desk, sender: str) -> None:
    """RFC 6531: such a mail writes its sender in UTF-8, the list has it in one form."""
    await desk.table(FORWARD)
    await block(desk, sender)
    raw = MAIL.replace(b"jane@sender.example", "Jürgen@Bücher.example".encode())
    assert await junk(desk, await desk.deliver(raw)) == {"support@postroom.test": True}
    by_envelope = await desk.deliver(MAIL, mail_from="Ju\u0308rgen@bücher.example")
    assert await junk(desk, by_envelope) == {"support@postroom.test": True}


async def test_a_mailbox_blocks_for_itself(desk: Desk) -> None:
    await desk.deliver(MAIL, "a@postroom.test", "b@postroom.test")
    await block(desk, "jane@sender.example", "a@postroom.test")
    id_ = await desk.deliver(MAIL, "a+tag@postroom.test", "b@postroom.test")
    assert await junk(desk, id_) == {"a@postroom.test": True, "b@postroom.test": False}
    await desk.table(FORWARD)
    id_ = await desk.deliver(MAIL, "a@postroom.test", "b@postroom.test")
    assert await junk(desk, id_) == {"a@postroom.test": True, "elsewhere@postroom.test": False}


async def test_what_a_route_holds_for_others_waits_whole(desk: Desk) -> None:
    await desk.deliver(MAIL, "a@postroom.test")
    await block(desk, "jane@sender.example", "a@postroom.test")
    await desk.table({"actions": [{"type": "quarantine"}]})
    id_ = await desk.deliver(MAIL, "a@postroom.test", "b@postroom.test")
    assert (await desk.state(id_), await junk(desk, id_)) == ("quarantined", {})


async def test_what_an_organization_blocks_is_its_own_matter(desk: Desk, store: Store) -> None:
    other = uuid7()
    await desk.admin.execute("INSERT INTO organizations (id, name) VALUES ($1, 'other')", other)
    await desk.admin.execute(
        "INSERT INTO blocked_senders (id, org_id, sender) VALUES ($1, $2, 'jane@sender.example')", uuid7(), other
    )
    assert await junk(desk, await desk.deliver()) == {"support@postroom.test": False}
    async with store.tenant(desk.org) as db:
        assert await db.fetchval("SELECT count(*) FROM blocked_senders") == 0
