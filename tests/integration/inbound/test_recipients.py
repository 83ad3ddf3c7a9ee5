"""What RCPT decides of an address, and where its mail lies afterwards (reliability A14, A15, A16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp import recipients
from inbound_smtp.checks import clients
from inbound_smtp.checks.clients import Clients
from inbound_smtp.counts import Distinct, Window
from inbound_smtp.router import Router
from mailcore.dns.resolver import StaticResolver
from mailcore.flow.greylist import Greylist
from mailcore.flow.lease import WorkerLease
from mailcore.flow.route import Routes
from mailcore.flow.tables import Tables
from mailcore.kit.ids import uuid7
from mailcore.store import addresses, greylist
from mailcore.store.session import Store

from .harness import Client, Server

MAIL = b"Subject: x\r\n\r\nx\r\n"
UNKNOWN = (550, "5.1.1")


@pytest.fixture(autouse=True)
def forgets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipients, "REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(clients, "SECONDS", 60.0)  # a busy machine is not a DNS that is away


@pytest.fixture
async def make(admin: asyncpg.Connection, org: UUID, domain: UUID) -> Callable[..., Awaitable[None]]:
    async def make(local: str, *targets: str) -> None:
        kind = "alias" if targets else "reject"
        await admin.execute(
            "INSERT INTO addresses (id, org_id, domain_id, local, kind, targets) VALUES ($1, $2, $3, $4, $5, $6)",
            *(uuid7(), org, domain, local, kind, list(targets)),
        )

    return make


async def _rcpt(client: Client, *locals_: str) -> list[tuple[int, str]]:
    """Code and enhanced code of each, in a transaction of its own kind that is left open."""
    await client.ask("EHLO x")
    assert (await client.ask("MAIL FROM:<a@sender.example>"))[0] == 250
    answers = [await client.ask(f"RCPT TO:<{local}@postroom.test>") for local in locals_]
    return [(code, text.split()[0]) for code, text in answers]


async def _mailbox(admin: asyncpg.Connection, org: UUID, address: str) -> None:
    await admin.execute("INSERT INTO mailboxes (id, org_id, address) VALUES ($1, $2, $3)", uuid7(), org, address)


async def _boxes(admin: asyncpg.Connection) -> list[str]:
    rows = await admin.fetch("SELECT b.address FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id ORDER BY 1")
    return [row["address"] for row in rows]


# ---- who is there -------------------------------------------------------------------------------------------------------


async def test_a14_a_domain_that_refuses_takes_mail_to_those_it_knows(
    server: Server, admin: asyncpg.Connection, org: UUID, make: Callable[..., Awaitable[None]]
) -> None:
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    await _mailbox(admin, org, "ann@postroom.test")
    await make("sales", "ann@postroom.test")
    await make("gone")
    await make("ann+spam")
    ok = (250, "2.0.0")
    wanted = {
        "ann": ok,
        "ANN": ok,
        "ann+tag": ok,
        "ann+": ok,
        "ann+a+b": ok,
        "ann+spam": UNKNOWN,
        "sales+x": ok,
        "postmaster": ok,
        "Abuse": ok,
        "bob": UNKNOWN,
        "bob+ann": UNKNOWN,
        "+ann": UNKNOWN,
        "gone": UNKNOWN,
        '"ann+x y"': UNKNOWN,
    }
    server.limit(errors=100)
    async with server.client() as client:
        assert dict(zip(wanted, await _rcpt(client, *wanted), strict=True)) == wanted
    await admin.execute("UPDATE domains SET subaddressing = false")
    async with server.client() as client:
        assert await _rcpt(client, "ann", "ann+tag") == [ok, UNKNOWN]
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0


async def test_a_domain_that_takes_all_refuses_whom_somebody_named(
    server: Server, make: Callable[..., Awaitable[None]]
) -> None:
    await make("spamtrap")
    async with server.client() as client:
        assert [code for code, _ in await _rcpt(client, "anybody", "spamtrap", "spamtrap+x")] == [250, 550, 550]


async def test_many_who_ask_at_once_are_asked_for_in_one_statement(
    server: Server, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipients, "GATHER_SECONDS", 0.2)
    monkeypatch.setattr(recipients, "REMEMBERED_SECONDS", 3600.0)
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    # the domain is known from here on: all ask for their addresses within a moment
    async with server.client() as client:
        assert await _rcpt(client, "nobody") == [UNKNOWN]
    asked: list[int] = []
    lookup = addresses.lookup

    async def counted(store: Store, wanted: Any) -> Any:
        asked.append(len(wanted))
        return await lookup(store, wanted)

    monkeypatch.setattr(addresses, "lookup", counted)

    async def one(n: int) -> None:
        async with server.client() as client:
            assert await _rcpt(client, f"nobody{n}+tag") == [UNKNOWN]

    await asyncio.gather(*(one(n) for n in range(20)))
    assert sum(asked) == 40
    assert len(asked) <= 4


async def test_a_route_that_rejects_is_heard_at_rcpt(
    server: Server, store: Store, admin: asyncpg.Connection, org: UUID
) -> None:
    server.mx.tables = Tables(store)
    await admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES ($1, $2, 1, 'no', $3, $4)",
        *(uuid7(), org, {"recipient": "list*"}, [{"type": "reject", "message": "The list is closed"}]),
    )
    async with server.client() as client:
        assert await _rcpt(client, "list-1", "ann") == [(550, "5.7.1"), (250, "2.0.0")]


# ---- where it lies ------------------------------------------------------------------------------------------------------


async def test_a16_where_mail_lies(
    server: Server,
    store: Store,
    routes: Routes,
    lease: WorkerLease,
    admin: asyncpg.Connection,
    make: Callable[..., Awaitable[None]],
) -> None:
    await make("sales", "ann@postroom.test", "bob@postroom.test")
    await make("bob+list", "lists@postroom.test")
    await make("loop", "loop@postroom.test")

    async def lies_in(*to: str) -> list[str]:
        await admin.execute("DELETE FROM messages")
        assert (await server.deliver(b"N: %b\r\n" % "".join(to).encode() + MAIL, *to))[0] == 250
        router = Router(store, lease, routes, batch=50)
        while await router.work(None):
            pass
        return [box.removesuffix("@postroom.test") for box in await _boxes(admin)]

    assert await lies_in("Sales+x@postroom.test", "ann@postroom.test") == ["ann", "bob"]
    assert await lies_in("bob+list@postroom.test", "bob+other@postroom.test") == ["bob", "lists"]
    assert await lies_in("loop@postroom.test", "new+x@postroom.test") == ["loop", "new"]
    told = [d for (row,) in await admin.fetch("SELECT decisions FROM arrivals") for d in row if d["step"] == "address"]
    assert {(d["decision"], d["recipient"], tuple(d["mailboxes"])) for d in told} == {
        ("alias", "sales+x@postroom.test", ("ann@postroom.test", "bob@postroom.test")),
        ("alias", "bob+list@postroom.test", ("lists@postroom.test",)),
        ("alias", "loop@postroom.test", ("loop@postroom.test",)),
    }
    await admin.execute("UPDATE domains SET catch_all = 'mailbox', catch_all_mailbox = 'lost@postroom.test'")
    assert await lies_in("nobody@postroom.test", "ann+x@postroom.test", "postmaster@postroom.test") == [
        *("ann", "lost", "postmaster")
    ]
    await admin.execute("UPDATE domains SET catch_all = 'create', subaddressing = false")
    assert await lies_in("cam+x@postroom.test", "sales@postroom.test") == ["ann", "bob", "cam+x"]


@pytest.mark.parametrize(
    ("local", "code"),
    [
        ("user+a", 250),
        ("user+", 250),
        ("user+a+b", 250),
        ("+a", 250),
        ("user+" + "x" * 59, 250),
        ("user+" + "x" * 60, 553),
    ],
    ids=["a tag", "an empty one", "two", "nothing but a tag", "64 octets", "65"],
)
async def test_a16_tags(server: Server, local: str, code: int) -> None:
    """RFC 5321 §4.5.3.1.1: 64 octets, tag and all."""
    async with server.client() as client:
        assert [(each, text[:1]) for each, text in await _rcpt(client, local)] == [(code, str(code)[0])]
        assert (await client.ask(f"RCPT TO:<user+{'x' * 1_000}@postroom.test>"))[0] in (500, 550, 553)


# ---- who sends ----------------------------------------------------------------------------------------------------------


async def test_a15_who_guesses_addresses_is_sent_away(server: Server, admin: asyncpg.Connection, org: UUID) -> None:
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    await _mailbox(admin, org, "ann@postroom.test")
    server.mx.unknown = Window(3, 600.0)
    async with server.client() as client:
        assert await _rcpt(client, "x1", "x2", "ann", "x3") == [UNKNOWN, UNKNOWN, (250, "2.0.0"), UNKNOWN]
        assert (await client.ask("RCPT TO:<x4@postroom.test>"))[0] == 421
        assert await client.ends() == b""
    async with server.client() as client:
        assert await _rcpt(client, "ann", "x5") == [(250, "2.0.0"), (421, "4.7.0")]


async def test_a15_a_catch_all_is_not_filled_by_one_client(server: Server, admin: asyncpg.Connection) -> None:
    server.mx.different = Distinct(3, 600.0)
    async with server.client() as client:
        answers = await _rcpt(client, "x1", "x2", "x1", "x3", "x4", "X2")
        assert [code for code, _ in answers] == [250, 250, 250, 250, 450, 250]
    await admin.execute("UPDATE domains SET catch_all = 'reject'")
    async with server.client() as client:
        assert [code for code, _ in await _rcpt(client, "postmaster")] == [250]


async def test_limits_of_a_sender_and_of_a_recipient(server: Server) -> None:
    server.mx.per_recipient = Window(2, 60.0)
    async with server.client() as client:
        assert [code for code, _ in await _rcpt(client, "ann", "Ann", "ann", "bob")] == [250, 250, 450, 250]
    server.mx.per_sender = Window(2, 60.0)
    async with server.client() as client:
        await client.ask("EHLO x")
        codes = []
        for sender in ("A@sender.example", "a@sender.example", "a@sender.example", "b@sender.example"):
            codes.append((await client.ask(f"MAIL FROM:<{sender}>"))[0])
            await client.ask("RSET")
        assert codes == [250, 250, 450, 250]


async def test_who_comes_first_comes_twice(
    server: Server, store: Store, admin: asyncpg.Connection, make_org: Any, make_domain: Any
) -> None:
    await make_domain(await make_org(), "open.test")
    await admin.execute("UPDATE domains SET greylisting = true WHERE name = 'postroom.test'")
    server.mx.greylist = Greylist(store, seconds=300)
    async with server.client() as client:
        assert await _rcpt(client, "ann", "bob", "ann") == [(450, "4.7.1")] * 3
        assert (await client.ask("RCPT TO:<a@open.test>"))[0] == 250
    assert await admin.fetchval("SELECT count(*) FROM greylist") == 2
    await admin.execute("UPDATE greylist SET first_at = now() - interval '301 s'")
    server.mx.greylist = Greylist(store, seconds=300)  # as another process: nothing is remembered
    async with server.client() as client:
        assert await _rcpt(client, "ann", "new", "bob") == [(250, "2.0.0")] * 3, "it has shown that it comes again"
    await admin.execute("UPDATE greylist SET seen_at = now() - interval '40 days'")
    async with store.worker() as db:
        assert await greylist.forget(db, limit=10) > 0
    assert await admin.fetchval("SELECT count(*) FROM greylist") == 0


def _clients(zones: dict[str, dict[str, list[str]]], **settings: Any) -> Clients:
    return Clients(StaticResolver(zones), **{"lists": ["bl.test"], "refuse_listed": True, "rdns": "off", **settings})


async def test_who_stands_on_a_list(server: Server, admin: asyncpg.Connection) -> None:
    zones = {"1.0.0.127.bl.test": {"A": ["127.0.0.2"], "TXT": ["see https://bl.test"]}}
    server.mx.clients = _clients(zones)
    async with server.client() as client:
        await client.ask("EHLO x")
        await client.ask("MAIL FROM:<a@sender.example>")
        code, text = await client.ask("RCPT TO:<v@postroom.test>")
        assert (code, text) == (550, "5.7.1 Your address 127.0.0.1 is listed by bl.test: see https://bl.test")
    server.mx.clients = _clients(zones, refuse_listed=False)
    assert (await server.deliver(MAIL, "v@postroom.test"))[0] == 250
    assert (await admin.fetchval("SELECT facts FROM arrivals"))["dnsbl"] == ["bl.test"]


@pytest.mark.parametrize(
    ("zones", "name"),
    [
        ({}, None),
        ({"1.0.0.127.in-addr.arpa": {"PTR": ["mx.sender.example."]}}, None),
        (
            {
                "1.0.0.127.in-addr.arpa": {"PTR": ["other.example.", "mx.sender.example."]},
                "other.example": {"A": ["192.0.2.1"]},
                "mx.sender.example": {"A": ["192.0.2.1", "127.0.0.1"]},
            },
            "mx.sender.example",
        ),
    ],
    ids=["no name", "leads nowhere", "leads back"],
)
async def test_a_name_that_leads_back(
    server: Server, admin: asyncpg.Connection, zones: dict[str, dict[str, list[str]]], name: str | None
) -> None:
    server.mx.clients = _clients(zones, lists=[], rdns="reject")
    async with server.client() as client:
        assert await _rcpt(client, "v") == [(250, "2.0.0") if name else (550, "5.7.25")]
    server.mx.clients = _clients(zones, lists=[], rdns="tag")
    assert (await server.deliver(MAIL, "v@postroom.test"))[0] == 250
    assert (await admin.fetchval("SELECT facts FROM arrivals"))["client_name"] == name


async def test_what_a_sender_wants_to_hear_is_kept(server: Server, admin: asyncpg.Connection) -> None:
    async with server.client() as client:
        for line in (
            "EHLO x",
            "MAIL FROM:<a@sender.example> RET=HDRS ENVID=QQ+2B314",
            "RCPT TO:<ann@postroom.test> NOTIFY=success,DELAY ORCPT=rfc822;a+2Bb@sender.example",
            "RCPT TO:<bob@postroom.test>",
        ):
            assert (await client.ask(line))[0] == 250
        assert (await client.ask("DATA"))[0] == 354
        client.send(MAIL + b".\r\n")
        assert (await client.reply())[0] == 250
    assert (await admin.fetchval("SELECT facts FROM arrivals"))["dsn"] == {
        "ret": "HDRS",
        "envid": "QQ+314",
        "recipients": {"ann@postroom.test": {"notify": "SUCCESS,DELAY", "orcpt": "rfc822;a+b@sender.example"}},
    }
