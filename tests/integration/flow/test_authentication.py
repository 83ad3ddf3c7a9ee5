"""Whether mail is from whom it says: found out once, kept with the arrival, and what the recipient's domain makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.blob.memory import MemoryBlobs
from mailcore.dns.resolver import Records, StaticResolver
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.store.session import Store

from .arriving import Desk, desk, told

ZONES = {
    "bank.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
    "_dmarc.shop.example": {"TXT": ["v=DMARC1; p=quarantine"]},
}


def mail(domain: str, n: int = 0) -> bytes:
    return f"From: <a@{domain}>\r\nTo: someone@postroom.test\r\nSubject: {n}\r\n\r\nhello\r\n".encode()


class Stuck(StaticResolver):
    """Answers about names below slow.example when it is let go."""

    def __init__(self, zones: Any) -> None:
        super().__init__(zones)
        self.let_go = asyncio.Event()

    async def txt(self, name: str) -> Records[str]:
        if name.endswith("slow.example"):
            await self.let_go.wait()
        return await super().txt(name)


@pytest.fixture
def resolver() -> Stuck:
    return Stuck(ZONES)


@pytest.fixture
async def door(
    admin: asyncpg.Connection, org: UUID, domain: UUID, store: Store, ringer: Ringer, resolver: Stuck
) -> Desk:
    return await desk(admin, org, store, ringer, MemoryBlobs(), resolver)


async def test_it_is_found_out_and_kept(door: Desk) -> None:
    row = await door.arrive(mail("bank.example"), mail_from="x@bank.example")
    assert (row["state"], row["auth"]["spf"]["result"], row["auth"]["dmarc"]["result"]) == ("routed", "pass", "pass")
    assert row["auth"]["header"].startswith("Authentication-Results: mx.postroom.test;\r\n\tspf=pass ")
    assert row["raw"] == mail("bank.example"), "kept bit for bit"


async def test_what_was_found_before_the_reply_counts(door: Desk, resolver: Stuck) -> None:
    before = {"dmarc": {"result": "pass", "policy": "none", "policy_domain": "", "domain": "bank.example"}}
    row = await door.arrive(mail("bank.example"), auth=before)
    assert (row["state"], row["auth"]) == ("routed", before)
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("policy", "author", "state"),
    [
        ("tag", "bank.example", "routed"),
        ("quarantine", "bank.example", "quarantined"),
        ("quarantine", "shop.example", "quarantined"),
        ("quarantine", "free.example", "routed"),
        ("reject", "bank.example", "quarantined"),
    ],
)
async def test_a_domain_holds_what_fails(door: Desk, policy: str, author: str, state: str) -> None:
    """Also what it would have refused, once it has been taken."""
    await door.admin.execute("UPDATE domains SET dmarc_policy = $1", policy)
    row = await door.arrive(mail(author), peer_ip="203.0.113.9")
    assert row["state"] == state
    made = await door.admin.fetchval("SELECT count(*) FROM messages")
    assert made == (1 if state == "routed" else 0)
    if state == "quarantined":
        (why,) = [each["reason"] for each in row["decisions"] if each["decision"] == "quarantined"]
        assert why.startswith(f"DMARC fails: the mail is not proven to be from {author}")
        assert await door.admin.fetchval("SELECT count(*) FROM events") == 0


async def test_one_domain_of_several_is_enough(
    door: Desk, org: UUID, make_domain: Callable[[UUID, str], Awaitable[UUID]]
) -> None:
    await make_domain(org, "strict.test")
    await door.admin.execute("UPDATE domains SET dmarc_policy = 'quarantine' WHERE name = 'strict.test'")
    raw = mail("bank.example")
    assert (await door.arrive(raw, "a@postroom.test", peer_ip="203.0.113.9"))["state"] == "routed"
    both = ("a@postroom.test", "b@Strict.test")
    assert (await door.arrive(raw, *both, peer_ip="203.0.113.9"))["state"] == "quarantined"


async def test_b7_a_forged_field_of_ours_is_not_passed_on(door: Desk, org: UUID) -> None:
    """Forwarded, it is gone; kept, it is there: raw mail is what came."""
    await door.admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions, stop) VALUES ($1, $2, 1, 'f', '{}', $3, true)",
        *(uuid7(), org, [{"type": "forward", "to": ["boss@elsewhere.example"]}]),
    )
    forged = b"Authentication-Results: MX.postroom.test; dmarc=pass header.from=bank.example\r\n"
    others = b"Authentication-Results: mx.other.example; dmarc=fail\r\n"
    row = await door.arrive(forged + others + mail("bank.example"), mail_from="x@bank.example")
    assert row["raw"] == forged + others + mail("bank.example")
    assert await door.admin.fetchval("SELECT raw FROM emails") == others + mail("bank.example")


@pytest.fixture
async def hurried(
    admin: asyncpg.Connection, org: UUID, domain: UUID, store: Store, ringer: Ringer, resolver: Stuck
) -> Callable[..., Awaitable[Desk]]:
    """A desk that waits as short as it is told."""
    return partial(desk, admin, org, store, ringer, MemoryBlobs(), resolver)


async def test_slow_dns_holds_up_nobody_else(hurried: Callable[..., Awaitable[Desk]], resolver: Stuck) -> None:
    door = await hurried(patience=0.5)
    slow = await door.take(mail("slow.example"))
    quick = [await door.take(mail("bank.example", n), mail_from="x@bank.example") for n in range(3)]
    await door.route()
    async with asyncio.timeout(60):  # on a busy machine those may be slow, too
        while {(await door.row(id_))["state"] for id_ in quick} != {"routed"}:
            await asyncio.sleep(0.02)
    row = await door.row(slow)
    assert (row["state"], row["auth"]) == ("received", None)
    resolver.let_go.set()
    await door.routes.settled()
    row = await door.row(slow)
    assert (row["state"], row["auth"]["dmarc"]["result"]) == ("routed", "none")
    assert told(row, "route")[-1] == "announced"
    assert await door.admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


async def test_slow_dns_ends(hurried: Callable[..., Awaitable[Desk]]) -> None:
    door = await hurried(dns_seconds=1.6)
    row = await door.arrive(mail("slow.example"))
    assert (row["state"], row["auth"]["dmarc"]["result"]) == ("routed", "temperror")
