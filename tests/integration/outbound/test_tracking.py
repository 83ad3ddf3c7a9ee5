"""Tracked mail as it leaves: what is put in, when, and that signatures cover it."""

from __future__ import annotations

import email
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from email import policy
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import asyncpg
import dkim

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.kit.seal import Keyring
from mailcore.mime.tracking import read_click, read_open, read_unsubscribe

Run = Callable[..., AbstractAsyncContextManager[Any]]
HTML = '<p>Hi <a href="https://shop.example/?a=1&amp;b=2">shop</a> <a href="mailto:x@example.com">mail</a></p></body>'
TEXT = "Hi https://shop.example/"


async def _sent(tenant: Tenant, sink: SmtpServer, **changes: Any) -> tuple[UUID, bytes]:
    before = len(sink.caught)
    id_ = await tenant.send("you@example.com", **{"html": HTML, "text": TEXT, **changes})
    await tenant.state(id_, "delivered")
    assert len(sink.caught) == before + 1
    return id_, sink.caught[-1].content


def _body(raw: bytes, kind: str) -> str:
    message = email.message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    part = message.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content


def _hrefs(html: str) -> list[str]:
    return re.findall(r'href="([^"]*)"', html)


async def test_a_domains_switch_an_emails_switch_and_the_host(
    tenant: Tenant, admin: asyncpg.Connection, domain: UUID, sink: SmtpServer, outbound: Run, keyring: Keyring
) -> None:
    keys = keyring.derive_all("track")
    async with outbound(sink):
        _, plain = await _sent(tenant, sink)
        assert _body(plain, "html").strip() == HTML
        await admin.execute("UPDATE domains SET open_tracking = true, click_tracking = true")
        id_, both = await _sent(tenant, sink)
        html = _body(both, "html")
        first, second = _hrefs(html)
        assert first.startswith("http://127.0.0.1:8080/track/click/"), "the switch holds for the very next mail"
        found = read_click(keys, first.rpartition("/")[2])
        assert found is not None
        assert (found.org_id, found.email_id, found.url) == (tenant.org_id, id_, "https://shop.example/?a=1&b=2")
        assert second == "mailto:x@example.com"
        (pixel,) = re.findall(r'<img src="([^"]*)"', html)
        assert html.index("<img") < html.index("</body>")
        opened = read_open(keys, pixel.rpartition("/")[2])
        assert opened is not None and opened.email_id == id_
        assert _body(both, "plain").strip() == TEXT
        txt = await admin.fetchval("SELECT public_txt FROM dkim_keys WHERE algorithm = 'rsa-sha256'")
        rsa = both.index(b"DKIM-Signature: v=1; a=rsa-sha256")
        ed = both.index(b"DKIM-Signature: v=1; a=ed25519-sha256")
        signed = both[rsa:] if rsa > ed else both[:ed] + both[both.index(b"\r\nFrom:") + 2 :]
        assert dkim.verify(signed, dnsfunc=lambda name, timeout=5: txt.encode()), "tracking comes before signing"

        _, off = await _sent(tenant, sink, track_opens=False, track_clicks=False)
        assert _body(off, "html").strip() == HTML
        await admin.execute(
            "UPDATE domains SET open_tracking = false, click_tracking = false, tracking_subdomain = 'links'"
        )
        _, opens = await _sent(tenant, sink, track_opens=True)
        assert "<img" in _body(opens, "html") and _hrefs(_body(opens, "html"))[0] == "https://shop.example/?a=1&amp;b=2"
        assert "http://127.0.0.1:8080/track/open/" in _body(opens, "html"), (
            "a subdomain whose record is not verified is not used"
        )
        await admin.execute('UPDATE domains SET record_status = \'{"tracking:links": "verified"}\'')
        _, own = await _sent(tenant, sink, track_clicks=True)
        assert _hrefs(_body(own, "html"))[0].startswith("https://links.postroom.test/track/click/")
        assert "<img" not in _body(own, "html")


async def test_every_attempt_sends_the_same_bytes(
    tenant: Tenant, admin: asyncpg.Connection, domain: UUID, sink: SmtpServer, outbound: Run
) -> None:
    await admin.execute("UPDATE domains SET open_tracking = true, click_tracking = true")
    sent = []
    for _ in range(2):
        async with outbound(sink):
            if not sent:
                id_ = await tenant.send("you@example.com", html=HTML)
            else:
                await admin.execute("UPDATE deliveries SET state = 'queued'")
                await admin.execute(
                    "INSERT INTO queue (email_id, n, org_id, lane_id, due_at, attempt) "
                    "SELECT $1, 0, org_id, id, now(), 1 FROM lanes",
                    id_,
                )
            await until(lambda: _count(sink, len(sent) + 1), "a mail")
            await tenant.state(id_, "delivered")
        sent.append(sink.caught[-1].content)
    assert sent[0] == sent[1]


async def _count(sink: SmtpServer, wanted: int) -> bool:
    return len(sink.caught) >= wanted


async def test_messages_that_were_handed_in_whole(
    tenant: Tenant, admin: asyncpg.Connection, domain: UUID, sink: SmtpServer, outbound: Run
) -> None:
    await admin.execute("UPDATE domains SET open_tracking = true, click_tracking = true")
    head = (
        b"From: us@postroom.test\r\nTo: you@example.com\r\nSubject: s\r\nMessage-ID: <raw@postroom.test>\r\n"
        b"Date: Sat, 21 Nov 2026 12:00:00 +0000\r\nMIME-Version: 1.0\r\n"
    )
    parts = (
        b'Content-Type: multipart/alternative; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nHi https://shop.example/\r\n"
        b"--b\r\nContent-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        b'<p>Gr=FC=DFe <a href=3D"https://shop.example/">shop</a></p>\r\n--b--\r\n'
    )
    async with outbound(sink):
        _, raw = await _sent(tenant, sink, html=None, text=None, raw=head + parts)
        html = _body(raw, "html")
        assert "Grüße" in html and "/track/click/" in _hrefs(html)[0] and "/track/open/" in html
        assert b"\r\n\r\nHi https://shop.example/\r\n" in raw
        signed = head + b"DKIM-Signature: v=1; a=rsa-sha256; d=other.example\r\n" + parts
        _, kept = await _sent(tenant, sink, html=None, text=None, raw=signed)
        assert kept.endswith(parts), "what somebody else has signed stays as it is"


async def test_an_unsubscribe_url_for_the_recipient_where_it_is_asked_for(
    tenant: Tenant, domain: UUID, sink: SmtpServer, outbound: Run, keyring: Keyring
) -> None:
    place = "{{{RESEND_UNSUBSCRIBE_URL}}}"
    changes = {
        "html": f'<a href="{place}">out</a>',
        "headers": {"list-unsubscribe": f"<{place}>"},
        "track_clicks": True,
    }
    async with outbound(sink):
        id_, raw = await _sent(tenant, sink, text=None, **changes)
        message = email.message_from_bytes(raw, policy=policy.default)
        url = message["List-Unsubscribe"].strip("<>")
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        found = read_unsubscribe(keyring.derive_all("track"), url.partition("?token=")[2])
        assert found is not None
        assert (found.org_id, found.email_id, found.recipient) == (tenant.org_id, id_, "you@example.com")
        assert _hrefs(_body(raw, "html")) == [url]
        assert url in _body(raw, "plain")
        for signature in message.get_all("DKIM-Signature"):
            signed = re.sub(r"\s", "", signature.partition("h=")[2].partition(";")[0]).split(":")
            assert signed.count("list-unsubscribe") == signed.count("list-unsubscribe-post") == 2, (
                "signed and oversigned"
            )
        several = await tenant.send("a@example.com", "b@example.com", **changes)
        await tenant.state(several, "delivered")
        shared = email.message_from_bytes(sink.caught[-1].content, policy=policy.default)
        assert shared["List-Unsubscribe"] is None and shared["List-Unsubscribe-Post"] is None


async def test_a_broadcast_carries_one_click_unsubscribing_without_asking_for_it(
    tenant: Tenant, domain: UUID, sink: SmtpServer, outbound: Run, keyring: Keyring
) -> None:
    async with outbound(sink):
        id_, raw = await _sent(tenant, sink, broadcast=True)
        message = email.message_from_bytes(raw, policy=policy.default)
        assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        url = message["List-Unsubscribe"].strip("<>")
        found = read_unsubscribe(keyring.derive_all("track"), url.partition("?token=")[2])
        assert found is not None and (found.email_id, found.recipient) == (id_, "you@example.com")
        for signature in message.get_all("DKIM-Signature"):
            signed = re.sub(r"\s", "", signature.partition("h=")[2].partition(";")[0]).split(":")
            assert signed.count("list-unsubscribe") == signed.count("list-unsubscribe-post") == 2
        own = {"List-Unsubscribe": "<mailto:out@example.com>"}
        _, raw = await _sent(tenant, sink, broadcast=True, headers=own)
        assert email.message_from_bytes(raw, policy=policy.default)["List-Unsubscribe"] == own["List-Unsubscribe"]
        _, raw = await _sent(tenant, sink)
        assert email.message_from_bytes(raw, policy=policy.default)["List-Unsubscribe"] is None
