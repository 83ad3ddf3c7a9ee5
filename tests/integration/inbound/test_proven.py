"""Mail that its sender's domain disowns, refused before the reply where the recipient's domain wants that (reliability B6, B7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from inbound_smtp.checks.authentication import BeforeReply
from mailcore.dns.resolver import StaticResolver
from mailcore.flow.authenticate import Authenticator, DmarcPolicies
from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import Chain
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519
from mailcore.store.session import Store

from .harness import Server

ZONES = {
    "_dmarc.bank.example": {"TXT": ["v=DMARC1; p=reject"]},
    "_dmarc.shop.example": {"TXT": ["v=DMARC1; p=quarantine"]},
    "here.example": {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]},
    "_dmarc.here.example": {"TXT": ["v=DMARC1; p=reject"]},
}
FORGED = b"From: <ceo@bank.example>\r\nTo: <someone@postroom.test>\r\nSubject: pay\r\n\r\nnow\r\n"


@pytest.fixture
async def strict(server: Server, store: Store, admin: asyncpg.Connection) -> Server:
    """postroom.test refuses."""
    authenticator = Authenticator(StaticResolver(ZONES), "mx.postroom.test", seconds=60)
    server.mx.before_reply = BeforeReply(authenticator, DmarcPolicies(store))
    await admin.execute("UPDATE domains SET dmarc_policy = 'reject'")
    return server


async def test_b6_what_its_author_disowns_is_refused(strict: Server, admin: asyncpg.Connection) -> None:
    code, said = await strict.deliver(FORGED, "someone@postroom.test")
    assert (code, said) == (
        550,
        "5.7.1 DMARC fails: the mail is not proven to be from bank.example, whose policy is reject.",
    )
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
    code, said = await strict.deliver(FORGED.replace(b"To:", b"From: x@free.example\r\nTo:"), "someone@postroom.test")
    assert (code, said) == (550, "5.7.1 There are several From fields.")


@pytest.mark.parametrize("policy", ["tag", "quarantine"])
async def test_other_domains_are_not_asked_before_the_reply(
    strict: Server, admin: asyncpg.Connection, policy: str
) -> None:
    await admin.execute("UPDATE domains SET dmarc_policy = $1", policy)
    for _ in range(2):  # asked for, and remembered
        assert (await strict.deliver(FORGED.replace(b"now", policy.encode()), "someone@postroom.test"))[0] == 250
    assert await admin.fetchval("SELECT array_agg(auth IS NULL) FROM arrivals") == [True]


async def test_what_is_taken_keeps_what_was_found(strict: Server, admin: asyncpg.Connection) -> None:
    mail = FORGED.replace(b"bank.example", b"here.example")
    assert (await strict.deliver(mail, "someone@postroom.test", sender="x@here.example"))[0] == 250
    assert (await strict.deliver(FORGED.replace(b"bank.example", b"shop.example"), "someone@postroom.test"))[0] == 250
    found = [row["auth"] for row in await admin.fetch("SELECT auth FROM arrivals ORDER BY id")]
    assert [(each["dmarc"]["result"], each["dmarc"]["policy"]) for each in found] == [
        ("pass", "reject"),
        ("fail", "quarantine"),
    ]


async def test_one_reply_for_all_of_its_recipients(
    strict: Server, admin: asyncpg.Connection, org: UUID, make_domain: Callable[[UUID, str], Awaitable[UUID]]
) -> None:
    """Taken for who would take it, it is held for the others: nobody is told later that it was refused."""
    await make_domain(org, "lenient.test")
    assert (await strict.deliver(FORGED, "a@lenient.test", "someone@postroom.test"))[0] == 250
    row = await admin.fetchrow("SELECT rcpt_to, auth FROM arrivals")
    assert (row["rcpt_to"], row["auth"]["dmarc"]["result"]) == (["a@lenient.test", "someone@postroom.test"], "fail")


async def test_b10_what_a_trusted_list_has_changed_is_taken(
    strict: Server, store: Store, admin: asyncpg.Connection
) -> None:
    key = SigningKey.load("ed", "lists.example", generate_ed25519()[0])
    zones = {**ZONES, key.record_name: {"TXT": [key.public_txt]}}
    head, _, body = FORGED.partition(b"\r\n\r\n")
    results = ["dmarc=pass header.from=bank.example"]
    sealed = seal(head + b"\r\n", body, Chain("none"), key, server="lists.example", results=results, now=1) + FORGED
    for trusted, code in (([], 550), (["lists.example"], 250)):
        authenticator = Authenticator(StaticResolver(zones), "mx.postroom.test", seconds=60, trusted=trusted)
        strict.mx.before_reply = BeforeReply(authenticator, DmarcPolicies(store))
        assert (await strict.deliver(sealed, "someone@postroom.test"))[0] == code
    found = await admin.fetchval("SELECT auth FROM arrivals")
    assert (found["dmarc"]["result"], found["dmarc"]["vouched_by"]) == ("fail", "lists.example")


async def test_a_large_mail_is_looked_at_whole(strict: Server, admin: asyncpg.Connection) -> None:
    large = FORGED + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 30_000
    assert (await strict.deliver(large, "someone@postroom.test"))[0] == 550
    assert (await strict.deliver(large.replace(b"bank.example", b"here.example"), "someone@postroom.test"))[0] == 550
    assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
