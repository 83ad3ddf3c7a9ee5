"""REQUIRETLS (RFC 8689): mail that its sender wants under verified TLS all the way, and that fails where nobody promises it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.authority import Authority, tlsa
from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step
from integration.outbound.harness import Tenant, until
from integration.outbound.tls_lab import Outbound, Sts, by_mx, good, signed
from mailcore.dsn.wishes import Wishes
from mailcore.smtp.dsn import DsnRequest, Ret

OFFERS = ("PIPELINING", "8BITMIME", "REQUIRETLS")
RAW = b"From: us@postroom.test\r\nTo: a@sts.example\r\nSubject: hi\r\nMessage-ID: <1@postroom.test>\r\n\r\nSecret.\r\n"


async def hand_in(tenant: Tenant, to: str, raw: bytes = RAW, **wishes: Any) -> UUID:
    """As the submission port does."""
    told = Wishes(wishes.pop("mail_from", "me@sts.example"), **wishes).as_json()
    return await tenant.send(
        to, html=None, text=None, raw=raw, message_id="<1@postroom.test>", dsn=told, requiretls=True
    )


async def only_attempt(tenant: Tenant, email_id: UUID) -> asyncpg.Record:
    await until(lambda: tenant.attempts(email_id), "an attempt")
    [attempt] = await tenant.attempts(email_id)
    return attempt


@pytest.mark.parametrize("mode", ["enforce", "testing"])
async def test_a_host_that_a_policy_names_and_that_promises_it_gets_the_mail(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts, mode: str
) -> None:
    """Beside mail without it, which goes by connections of its own. What the header says against it does not count (§3)."""
    sts.policy(mode)
    async with (
        SmtpServer(tls=good(authority).context, extensions=OFFERS) as peer,
        outbound(**sts.settings(peer)),
    ):
        plain = await tenant.send("a@sts.example")
        strict = await hand_in(tenant, "a@sts.example", b"TLS-Required: No\r\n" + RAW)
        for each in (plain, strict):
            await tenant.state(each, "delivered")
    said = {caught.opening[0].endswith(" REQUIRETLS"): caught for caught in peer.caught}
    assert said.keys() == {True, False} and said[True].tls
    attempt = await only_attempt(tenant, strict)
    assert attempt["tls"] and attempt["tls_policy"] == {"enforce": "mta-sts", "testing": "mta-sts-testing"}[mode]
    assert len({talk.peer for talk in peer.talks}) == 2


@pytest.mark.peer("unbound")
async def test_a_host_whose_records_are_signed_gets_the_mail(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path
) -> None:
    """With DANE; and without, by a certificate of an authority that we know."""
    server = authority.server("mx.dane.example")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    async with SmtpServer(tls=server.context, extensions=OFFERS) as peer:
        for record, policy in ((tlsa(3, server.certificate), "dane"), (None, "required")):
            async with (
                signed(tmp_path, peer, record) as dns,
                outbound(**by_mx(dns.address, peer, ca_file=str(ca_file))),
            ):
                email_id = await hand_in(tenant, "a@dane.example")
                await tenant.state(email_id, "delivered")
            attempt = await only_attempt(tenant, email_id)
            assert (attempt["tls_policy"], attempt["outcome"]) == (policy, "delivered")
    assert all(caught.opening[0].endswith(" REQUIRETLS") for caught in peer.caught)


async def test_where_nobody_promises_it_the_mail_fails_at_once_and_says_so(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    sts.policy("enforce")
    async with (
        SmtpServer(tls=good(authority).context) as peer,
        outbound(**sts.settings(peer)),
    ):
        email_id = await hand_in(tenant, "a@sts.example", mail_from="")
        await tenant.state(email_id, "failed")
    attempt = await only_attempt(tenant, email_id)
    assert (attempt["outcome"], attempt["rule"]) == ("failed", "requiretls-not-offered")
    assert (attempt["code"], attempt["enhanced_code"]) == (550, "5.7.30")
    assert [event["type"] for event in await tenant.events(email_id)] == ["email.sent", "email.failed"]
    assert peer.caught == [] and not peer.commands("MAIL")


async def test_hosts_that_only_an_unsigned_record_names_get_nothing(
    tenant: Tenant, outbound: Outbound, authority: Authority, ca_file: str
) -> None:
    """Whoever answers for the DNS could name a host of his own, with a certificate as good as this one (§4.2.1).

    But where the domain is its own mail host, its certificate says so.
    """
    zones = {
        "plain.example": {"MX": ["10 mx.plain.example."]},
        "mx.plain.example": {"A": ["127.0.0.1"]},
        "itself.example": {"A": ["127.0.0.1"]},
    }
    context = authority.server("mx.plain.example").context
    async with (
        DnsServer(zones, ttl=0) as dns,
        SmtpServer(tls=context, extensions=OFFERS) as peer,
        outbound(**by_mx(dns.address, peer, ca_file=ca_file)),
    ):
        email_id = await hand_in(tenant, "a@plain.example", mail_from="")
        await tenant.state(email_id, "failed")
        assert peer.talks == []
        # the others of the domain are not kept back
        await tenant.state(await tenant.send("a@plain.example"), "delivered")
    attempt = await only_attempt(tenant, email_id)
    assert (attempt["rule"], attempt["enhanced_code"]) == ("requiretls-not-offered", "5.7.30")
    assert "neither signed MX records nor an MTA-STS policy" in attempt["reply"]
    context = authority.server("itself.example").context
    async with (
        DnsServer(zones, ttl=0) as dns,
        SmtpServer(tls=context, extensions=OFFERS) as peer,
        outbound(**by_mx(dns.address, peer, ca_file=ca_file)),
    ):
        await tenant.state(await hand_in(tenant, "a@itself.example"), "delivered")


async def test_what_may_pass_is_waited_for(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts, admin: asyncpg.Connection
) -> None:
    """A policy that cannot be fetched just now, then a certificate that has ended: neither fails the mail, nor rests the site."""
    sts.policy("enforce")
    page = sts.host.pages.pop("/.well-known/mta-sts.txt")
    async with SmtpServer(tls=good(authority).context, extensions=OFFERS) as peer:
        async with outbound(**sts.settings(peer)):
            attempt = await only_attempt(tenant, await hand_in(tenant, "a@sts.example"))
        assert (attempt["outcome"], attempt["rule"]) == ("deferred", "mta-sts-failed")
        assert "cannot be had just now" in attempt["reply"] and peer.talks == []
    await admin.execute("DELETE FROM mta_sts_policies")  # the rest after a failure
    sts.host.pages["/.well-known/mta-sts.txt"] = page
    ended = authority.server("mx.sts.example", ended=True).context
    async with SmtpServer(tls=ended, extensions=OFFERS) as peer, outbound(**sts.settings(peer)):
        attempt = await only_attempt(tenant, await hand_in(tenant, "a@sts.example"))
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "mta-sts-failed")
    assert peer.caught == []
    assert await admin.fetchval("SELECT count(*) FROM sites WHERE failures > 0") == 0


async def test_its_report_stays_under_tls_too_and_brings_the_header_only(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    """RFC 8689 §5: RET=FULL is passed over."""
    sts.policy("enforce")
    refuses = {"rcpt": [Step("550 5.1.1 no such user here"), Step("250 ok")]}
    async with (
        SmtpServer(refuses, tls=good(authority).context, extensions=OFFERS) as peer,
        outbound(**sts.settings(peer)),
    ):
        await hand_in(tenant, "a@sts.example", recipients=(DsnRequest(Ret.FULL),))
        await until(lambda: _caught(peer), "a report")
    [report] = peer.caught
    assert report.opening[0].startswith("MAIL FROM:<> ") and report.opening[0].endswith(" REQUIRETLS")
    assert b"550 5.1.1 no such user here" in report.content and b"Subject: hi" in report.content
    assert b"Secret." not in report.content


async def _caught(peer: SmtpServer) -> bool:
    return bool(peer.caught)
