"""The nineteen cases that espoofer sends to a server (Chen, Paxson, Jiang 2020), through the MX (reliability B6, B7).

evil.example is proven in each; legit.example, which wants refused what is not its own, is whom somebody is to see. Its three cases
of an account that spoofs are in test_submission.py.
"""

from __future__ import annotations

import base64

import asyncpg
import pytest

from inbound_smtp.checks.authentication import BeforeReply
from mailcore.dns.resolver import StaticResolver
from mailcore.flow.authenticate import Authenticator, DmarcPolicies
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519
from mailcore.mailauth.dkim.sign import sign
from mailcore.mime.parse import Message
from mailcore.store.session import Store

from .harness import Server

KEY = SigningKey.load("s", "evil.example", generate_ed25519()[0])
SPF = {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]}
ZONES = {
    "evil.example": SPF,
    "33.evil.example": SPF,
    "any.evil.example": SPF,
    "legit.example'a.evil.example": SPF,
    "legit.example(a.evil.example": SPF,
    KEY.record_name: {"TXT": [KEY.public_txt]},
    f"s._domainkey.legit.example'{KEY.domain}": {"TXT": [KEY.public_txt]},
    "legit.example": {"TXT": ["v=spf1 -all"], "A": ["192.0.2.1"]},
    "_dmarc.legit.example": {"TXT": ["v=DMARC1; p=reject"]},
}
PROVEN = "any@evil.example"
CEO = b"From: <ceo@legit.example>\r\n"
FIRST = b"From: <first@evil.example>\r\n"
ENCODED = b"=?utf-8?B?" + base64.b64encode(b"<ceo@legit.example>") + b"?="
CASES: dict[str, tuple[str, bytes]] = {
    "a1 a subdomain that does not exist": ("any@mailfrom.notexist.legit.example", CEO),
    "a2 an empty return path": ("(any@legit.example", CEO),
    "a3 a NUL in the selector": ("any@33.evil.example", CEO),
    "a4 a quote in the signature's domain": (PROVEN, CEO),
    "a5 a bracket in the return path": ("any@legit.example(a.evil.example", CEO),
    "a6 a quote in the return path": ("any@legit.example'@any.evil.example", CEO),
    "a7 a route in the return path": ("@legit.example,@any.example:'any@evil.example", CEO),
    "a8 two From": (PROVEN, FIRST + CEO),
    "a9 a blank before the first": (PROVEN, b" " + FIRST + CEO),
    "a10 a blank behind the name": (PROVEN, FIRST + b"From : <ceo@legit.example>\r\n"),
    "a11 a folded name": (PROVEN, b"From\r\n : <first@evil.example>\r\n" + CEO),
    "a12 a Sender": (PROVEN, b"From\r\n : <first@evil.example>\r\nSender: <ceo@legit.example>\r\n"),
    "a13 a Resent-From": (PROVEN, b"From\r\n : <first@evil.example>\r\nResent-From: <ceo@legit.example>\r\n"),
    "a14 two addresses": (PROVEN, b"From: <first@evil.example>, <ceo@legit.example>\r\n"),
    "a15 an encoded address": (PROVEN, b"From:" + ENCODED + b",<second@evil.example>\r\n"),
    "a16 a route": (PROVEN, b"From: <@evil.example,@any.example:ceo@legit.example>\r\n"),
    "a17 a quoted pair": (PROVEN, b"From: <ceo@legit.example>\\,<second@evil.example>\r\n"),
    "a18 an address without brackets": (PROVEN, b"From: ceo@legit.example,<second@evil.example>\r\n"),
    "a19 an address behind": (PROVEN, b"From: <any@evil.example>ceo@legit.example\r\n"),
}
SIGNED = {
    "a3 a NUL in the selector": (
        b"d=evil.example;\r\n s=s;",
        b"d=legit.example;\r\n s=s._domainkey.evil.example.\0.any;",
    ),
    "a4 a quote in the signature's domain": (b"d=evil.example;", b"d=legit.example'evil.example;"),
}
"""What stands in the signature in place of what was signed."""


@pytest.fixture
async def strict(server: Server, store: Store, admin: asyncpg.Connection) -> Server:
    authenticator = Authenticator(StaticResolver(ZONES), "mx.postroom.test", seconds=60)
    server.mx.before_reply = BeforeReply(authenticator, DmarcPolicies(store))
    await admin.execute("UPDATE domains SET dmarc_policy = 'reject'")
    return server


@pytest.mark.parametrize("case", CASES)
async def test_b6_espoofer(strict: Server, admin: asyncpg.Connection, case: str) -> None:
    mail_from, from_ = CASES[case]
    head = from_ + b"To: <victim@postroom.test>\r\nSubject: pay\r\n"
    if case in SIGNED:
        was, is_ = SIGNED[case]
        signature = sign(head, b"now\r\n", [KEY], now=1_800_000_000)
        assert was in signature
        head = signature.replace(was, is_) + head
    async with strict.client() as client:
        await client.ask("EHLO evil.example")
        code, _ = await client.ask(f"MAIL FROM:<{mail_from}>")
        if code == 250:
            assert (await client.ask("RCPT TO:<victim@postroom.test>"))[0] == 250
            assert (await client.ask("DATA"))[0] == 354
            client.send(head + b"\r\nnow\r\n.\r\n")
            code, _ = await client.reply()
    if code >= 500:
        assert await admin.fetchval("SELECT count(*) FROM arrivals") == 0
        return
    assert case[:3] in ("a12", "a13"), "nobody else is taken: what these show is who was proven"
    row = await admin.fetchrow("SELECT raw, auth FROM arrivals")
    assert row is not None
    assert row["auth"]["dmarc"]["domain"] != "legit.example"
    assert "legit.example" not in row["auth"]["header"]
    assert all("legit" not in one.address for one in Message(row["raw"]).summary().from_)


async def test_an_honest_mail_of_the_same_sender_is_taken(strict: Server) -> None:
    assert (await strict.deliver(FIRST + b"\r\nhello\r\n", "victim@postroom.test", sender=PROVEN))[0] == 250
