"""Where mail goes by MX: roll-up of domains to sites, and every way in which a domain takes no mail."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from fakes.authority import Authority
from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from mailcore.kit.errors import Refused
from peers import free_port

LOOPBACK = {"allow": {"mx": ["127.0.0.0/8"]}}
Zones = Mapping[str, Mapping[str, Sequence[str]]]


def by_mx(dns: DnsServer, sink: SmtpServer, **changes: Any) -> dict[str, Any]:
    return {
        "route": "mx",
        "mx_port": sink.port,
        "dns": {"nameservers": [dns.address]},
        "network": LOOPBACK,
        **changes,
    }


async def test_domains_with_one_set_of_hosts_are_one_site(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    zones: Zones = {
        "one.example": {"MX": ["10 mx1.host.example.", "20 mx2.host.example."]},
        "two.example": {"MX": ["20 mx1.host.example.", "10 mx2.host.example."]},
        "mx1.host.example": {"A": ["127.0.0.1"]},
        "mx2.host.example": {"A": ["127.0.0.1"]},
    }
    async with DnsServer(zones) as dns, outbound(**by_mx(dns, sink)):
        ids = [await tenant.send("a@one.example"), await tenant.send("a@two.example")]
        for email_id in ids:
            await tenant.state(email_id, "delivered")
    sites = await admin.fetch("SELECT DISTINCT s.key FROM recipient_domains r JOIN sites s ON s.id = r.site_id")
    assert [row["key"] for row in sites] == ["mx:mx1.host.example,mx2.host.example"]
    for email_id in ids:
        (attempt,) = await tenant.attempts(email_id)
        assert attempt["site"] == "mx:mx1.host.example,mx2.host.example"


async def test_without_mx_the_address_of_the_domain_is_used(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    async with DnsServer({"plain.example": {"A": ["127.0.0.1"]}}) as dns, outbound(**by_mx(dns, sink)):
        email_id = await tenant.send("a@plain.example")
        await tenant.state(email_id, "delivered")
    assert (await tenant.attempts(email_id))[0]["site"] == "mx:plain.example"


async def test_the_second_host_is_tried_when_the_first_is_down(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    zones: Zones = {
        "one.example": {"MX": ["10 down.example.", "20 up.example."]},
        "down.example": {"A": ["127.0.0.9"]},
        "up.example": {"A": ["127.0.0.1"]},
    }
    async with DnsServer(zones) as dns, outbound(**by_mx(dns, sink)):
        email_id = await tenant.send("a@one.example")
        await tenant.state(email_id, "delivered")
    assert (await tenant.attempts(email_id))[0]["mx_host"] == "up.example"


async def test_every_address_of_a_host_is_tried(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    """Two where nobody listens, one of each version of IP, and one that takes the mail; in whatever order they come."""
    zones: Zones = {
        "one.example": {"MX": ["10 mx.one.example."]},
        "mx.one.example": {"A": ["127.0.0.9", "127.0.0.1"], "AAAA": ["::1"]},
    }
    network = {"allow": {"mx": ["127.0.0.0/8", "::1/128"]}}
    async with DnsServer(zones) as dns, outbound(**by_mx(dns, sink, network=network)):
        email_id = await tenant.send("a@one.example")
        await tenant.state(email_id, "delivered")
    (attempt,) = await tenant.attempts(email_id)
    assert (attempt["mx_host"], attempt["mx_ip"]) == ("mx.one.example", "127.0.0.1")


async def test_mail_by_version_6_of_ip(tenant: Tenant, outbound: Any) -> None:
    port = free_port()
    try:
        six = SmtpServer(host="::1", port=port)
        await six.__aenter__()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    zones: Zones = {"one.example": {"A": ["127.0.0.9"], "AAAA": ["::1"]}}
    try:
        network = {"allow": {"mx": ["::1/128"]}}
        async with DnsServer(zones) as dns, outbound(**by_mx(dns, six, network=network, ip_versions="6")):
            email_id = await tenant.send("a@one.example")
            await tenant.state(email_id, "delivered")
    finally:
        await six.__aexit__()
    (attempt,) = await tenant.attempts(email_id)
    assert (attempt["mx_ip"], attempt["source_ip"]) == ("::1", "::1")


async def test_mail_to_a_domain_that_is_received_here_comes_in_by_mx(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    """We are its best mail host: no loop for a domain of ours, and one for any other (RFC 5321 §5.1)."""
    await admin.execute("UPDATE domains SET receiving = true WHERE name = 'postroom.test'")
    zones: Zones = {
        "postroom.test": {"MX": ["10 outbound.test."]},
        "foreign.example": {"MX": ["10 outbound.test."]},
        "outbound.test": {"A": ["127.0.0.1"]},
    }
    async with DnsServer(zones) as dns, outbound(**by_mx(dns, sink)):
        ours, foreign = await tenant.send("a@postroom.test"), await tenant.send("a@foreign.example")
        await tenant.state(ours, "delivered")
        await tenant.state(foreign, "bounced")
    assert sink.recipients == ["a@postroom.test"]
    assert (await tenant.attempts(foreign))[0]["rule"] == "mail-loop"


async def test_domains_that_take_no_mail_bounce_at_once(tenant: Tenant, sink: SmtpServer, outbound: Any) -> None:
    zones: Zones = {
        "null.example": {"MX": ["0 ."]},
        "nothing.example": {"TXT": ["here"]},
        "inside.example": {"MX": ["10 mx.inside.example."]},
        "mx.inside.example": {"A": ["10.0.0.1"]},
        "self.example": {"MX": ["10 mx.self.example."]},
        "mx.self.example": {"A": ["169.254.169.254"]},
    }
    wanted = {
        "null.example": ("null-mx", 556, "5.1.10"),
        "missing.example": ("no-such-domain", 550, "5.1.2"),
        "nothing.example": ("no-mail-host", 550, "5.4.4"),
        "inside.example": ("private-address", 550, "5.4.4"),
        "self.example": ("private-address", 550, "5.4.4"),
    }
    async with DnsServer(zones) as dns, outbound(**by_mx(dns, sink)):
        ids = {domain: await tenant.send(f"a@{domain}") for domain in wanted}
        for domain, (rule, code, enhanced) in wanted.items():
            await tenant.state(ids[domain], "bounced")
            attempt = (await tenant.attempts(ids[domain]))[0]
            assert (attempt["rule"], attempt["code"], attempt["enhanced_code"]) == (rule, code, enhanced), domain
            event = (await tenant.events(ids[domain]))[-1]
            assert (event["type"], event["detail"]["bounce"]["type"]) == ("email.bounced", "Permanent")
    assert sink.talks == []


OCTETS = r"\255" * 20
"""A label that no host has, and that TLS cannot ask for: longer than 63 as text."""


async def test_hosts_that_are_none_are_passed_over(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, authority: Authority
) -> None:
    odd = f"{OCTETS}.example"
    zones: Zones = {
        "mixed.example": {"MX": [f"10 {odd}.", "20 mx.mixed.example."]},
        "none.example": {"MX": [f"10 {odd}."]},
        "mx.mixed.example": {"A": ["127.0.0.1"]},
        odd: {"A": ["127.0.0.1"]},
    }
    async with (
        SmtpServer(tls=authority.server("mx.mixed.example").context) as peer,
        DnsServer(zones) as dns,
        outbound(**by_mx(dns, peer)),
    ):
        mixed, none = await tenant.send("a@mixed.example"), await tenant.send("a@none.example")
        await tenant.state(mixed, "delivered")
        await tenant.state(none, "bounced")
    (attempt,) = await tenant.attempts(mixed)
    assert (attempt["mx_host"], attempt["site"]) == ("mx.mixed.example", "mx:mx.mixed.example")
    (attempt,) = await tenant.attempts(none)
    assert (attempt["rule"], attempt["enhanced_code"]) == ("no-mail-host", "5.4.4")
    assert "none of its MX records names a host" in attempt["reply"]


async def test_what_nobody_foresaw_in_opening_a_connection_is_an_attempt(
    tenant: Tenant, outbound: Any, admin: asyncpg.Connection, authority: Authority
) -> None:
    """Here a name that TLS cannot ask for, of the operator's own: one mail pays, the site rests, and all is to be seen."""
    odd = f"{OCTETS}.example"
    async with (
        SmtpServer(tls=authority.server("mx.example").context) as peer,
        DnsServer({odd: {"A": ["127.0.0.1"]}}) as dns,
        outbound(**by_mx(dns, peer, route="smarthost", smarthost_host=odd, smarthost_port=peer.port)),
    ):
        ids = await tenant.send_each([[f"u{n}@one.example"] for n in range(3)])
        await until(lambda: admin.fetchval("SELECT failures FROM sites WHERE key LIKE 'smarthost:%'"), "rests")
        await until(
            lambda: admin.fetchval("SELECT count(*) FROM attempts WHERE email_id = ANY ($1)", ids), "an attempt"
        )
        attempts = [each for email_id in ids for each in await tenant.attempts(email_id)]
        assert [(each["outcome"], each["rule"]) for each in attempts] == [("deferred", "internal-error")]
        assert "UnicodeError" in attempts[0]["reply"]
        assert len(peer.talks) == 1


async def test_loopback_is_private_unless_the_operator_opens_it(
    tenant: Tenant, sink: SmtpServer, outbound: Any
) -> None:
    async with (
        DnsServer({"here.example": {"A": ["127.0.0.1"]}}) as dns,
        outbound(**by_mx(dns, sink, network={"allow": {"mx": []}})),
    ):
        email_id = await tenant.send("a@here.example")
        await tenant.state(email_id, "bounced")
    assert (await tenant.attempts(email_id))[0]["rule"] == "private-address"
    assert sink.talks == []


async def test_a_dns_that_does_not_answer_defers_the_lane_not_each_mail(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    zones: Zones = {"fine.example": {"A": ["127.0.0.1"]}}
    async with DnsServer(zones, failing={"sick.example"}) as dns, outbound(**by_mx(dns, sink)):
        sick = await tenant.send_each([[f"u{n}@sick.example"] for n in range(20)])
        fine = await tenant.send("a@fine.example")
        await tenant.state(fine, "delivered")
        await until(
            lambda: admin.fetchval("SELECT suspended_until > now() FROM sites WHERE key = 'domain:sick.example'"),
            "rests",
        )
        assert await admin.fetchval("SELECT count(*) FROM attempts WHERE email_id = ANY ($1)", sick) == 0
        assert "did not answer" in await admin.fetchval(
            "SELECT last_reply FROM sites WHERE key = 'domain:sick.example'"
        )
        # it is well again
        dns.failing = set()
        dns.zones = {**zones, "sick.example": {"A": ["127.0.0.1"]}}
        asked = len(dns.asked)
        await admin.execute("UPDATE sites SET suspended_until = now() WHERE key = 'domain:sick.example'")

        async def asked_again() -> bool:
            await admin.execute("UPDATE sites SET suspended_until = now() WHERE key = 'domain:sick.example'")
            return bool(await admin.fetchval("SELECT NOT EXISTS (SELECT FROM queue)"))

        await until(asked_again, "delivered")
        assert len(dns.asked) > asked
    assert len(sink.caught) == 21


async def test_a_changed_route_moves_waiting_rows(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    async with SmtpServer() as first, outbound(first):
        await tenant.state(await tenant.send("a@one.example"), "delivered")
    async with outbound(sink):
        await tenant.state(await tenant.send("b@one.example"), "delivered")
    assert [caught.rcpt_to for caught in first.caught] == [["a@one.example"]]
    assert [caught.rcpt_to for caught in sink.caught] == [["b@one.example"]]


async def test_a_smart_host_takes_all_with_a_login(tenant: Tenant, outbound: Any) -> None:
    extensions = ("PIPELINING", "AUTH PLAIN")
    async with SmtpServer(extensions=extensions) as host:
        changes = {"smarthost_username": "me", "smarthost_password": "secret", "smarthost_tls": "opportunistic"}
        async with outbound(route="smarthost", smarthost_host="127.0.0.1", smarthost_port=host.port, **changes):
            ids = await asyncio.gather(tenant.send("a@one.example"), tenant.send("a@two.example"))
            for email_id in ids:
                await tenant.state(email_id, "delivered")
    assert host.commands("AUTH")
    assert (await tenant.attempts(ids[0]))[0]["site"] == f"smarthost:127.0.0.1:{host.port}"
    said = str((await tenant.attempts(ids[0]))[0]["conversation"])
    assert "secret" not in said


async def test_a_smart_host_is_spoken_to_under_tls_from_the_first_octet_on(
    tenant: Tenant, outbound: Any, certificates: Path
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    with pytest.raises(Refused, match="SMARTHOST_PORT, usually 465"):
        async with outbound(route="smarthost", smarthost_host="localhost", smarthost_tls="implicit"):
            pass
    async with SmtpServer(tls=context, implicit=True, extensions=("PIPELINING", "AUTH PLAIN")) as host:
        login = {"smarthost_username": "me", "smarthost_password": "secret", "smarthost_tls": "implicit"}
        at = {"route": "smarthost", "smarthost_host": "localhost", "smarthost_port": host.port, **login}
        async with outbound(**at):  # nobody vouches for it: the whole site rests
            email_id = await tenant.send("a@one.example")
            await until(lambda: tenant.attempts(email_id), "an attempt")
            assert (await tenant.attempts(email_id))[0]["rule"] == "tls-failed"
            await until(lambda: _rests(tenant), "the site rests")
        assert host.commands("EHLO") == []
        await tenant.admin.execute("UPDATE sites SET suspended_until = NULL, failures = 0")
        await tenant.admin.execute("UPDATE queue SET due_at = now()")
        async with outbound(ca_file=str(certificates / "ca.pem"), **at):
            await tenant.state(email_id, "delivered")
    attempt = (await tenant.attempts(email_id))[-1]
    assert attempt["tls"].startswith("TLSv1.3 ") and attempt["tls_policy"] == "required"
    assert not host.commands("STARTTLS") and host.commands("AUTH PLAIN")


async def _rests(tenant: Tenant) -> bool:
    return bool(await tenant.admin.fetchval("SELECT true FROM sites WHERE suspended_until > now()"))


async def test_an_enforced_domain_does_not_go_out_in_clear(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    await admin.execute("UPDATE domains SET tls = 'enforced'")
    async with DnsServer({"plain.example": {"A": ["127.0.0.1"]}}) as dns, outbound(**by_mx(dns, sink)):
        email_id = await tenant.send("a@plain.example")
        await until(lambda: tenant.attempts(email_id), "an attempt")
    attempt = (await tenant.attempts(email_id))[0]
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "tls-not-offered")
    assert sink.caught == []
    # it is this domain's demand: the site is well
    assert await admin.fetchval("SELECT count(*) FROM sites WHERE failures > 0") == 0


async def test_a_domain_that_becomes_enforced_means_the_very_next_mail(
    tenant: Tenant, sink: SmtpServer, outbound: Any, admin: asyncpg.Connection
) -> None:
    async with DnsServer({"plain.example": {"A": ["127.0.0.1"]}}) as dns, outbound(**by_mx(dns, sink)):
        await tenant.state(await tenant.send("a@plain.example"), "delivered")
        await admin.execute("UPDATE domains SET tls = 'enforced'")
        email_id = await tenant.send("b@plain.example")
        await until(lambda: tenant.attempts(email_id), "an attempt")
    assert (await tenant.attempts(email_id))[0]["rule"] == "tls-not-offered"
    assert sink.recipients == ["a@plain.example"]
