"""Health of what our domains' names stand for: certificates of their hosts, lists of domains. And checks that fail themselves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.flow.test_health import DOMAIN, GOOD, IP, Zones, certificate, examined, mx, patient, scene
from mailcore.dns.required import Published
from mailcore.dns.resolver import DnsResolver, Records
from mailcore.flow import health
from mailcore.flow import sources as flow
from mailcore.flow.health import examine
from mailcore.flow.sources import WarmupChange
from mailcore.kit.settings import Health, HowMailLeaves, Network, Scanners
from mailcore.store import sources
from mailcore.store.health import Finding
from mailcore.store.session import Store
from peers import free_port

__all__ = ["mx", "patient"]

LOOPBACK = (ip_network("127.0.0.0/8"),)
SHOP = {
    **DOMAIN,
    "receiving": True,
    "tracking_subdomain": "links",
    "old_tracking": ["click"],
    "record_status": {"tracking:links": "verified", "tracking:click": "verified"},
}
HOSTS = ("links.mail.test", "click.mail.test", "mta-sts.mail.test")
ANNOUNCED: Zones = {
    **GOOD,
    **{host: {"A": [IP]} for host in HOSTS},
    "_mta-sts.mail.test": {"TXT": ["v=STSv1; id=20261121"]},
}


@asynccontextmanager
async def https(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, IP, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def of_hosts(mx: SmtpServer, port: int, zones: Zones = ANNOUNCED, **changed: Any) -> dict[str, Finding]:
    what = scene(mx, **{"domains": (SHOP,), "https_port": port, "allow": LOOPBACK, **changed})
    async with DnsServer(zones) as dns:
        found = await examine(what, DnsResolver([dns.address], timeout=60, cache_size=0))
    return {each.subject: each for each in found if each.check == "certificate" and each.subject != "mx.test"}


async def test_certificates_of_a_domains_own_hosts(mx: SmtpServer, tmp_path: Path) -> None:
    for names, days, issuer, status, words in (
        ("*.mail.test", 60, "An Authority", "ok", "holds for"),
        ("*.mail.test", 5, "An Authority", "wrong", "expires in"),
        ("*.mail.test", -5, "An Authority", "wrong", "expired on"),
        ("other.test", 60, "An Authority", "wrong", "is for other.test"),
        ("*.mail.test", 60, None, "wrong", "signed by itself"),
    ):
        async with https(certificate(tmp_path, names, days=days, issuer=issuer)) as port:
            found = await of_hosts(mx, port)
        assert {host: (each.status, words in each.text) for host, each in found.items()} == dict.fromkeys(
            HOSTS, (status, True)
        )
        assert all(bool(each.advice) == (status == "wrong") and "\n" not in each.advice for each in found.values())


async def test_a_host_of_ours_that_nobody_answers_for(mx: SmtpServer) -> None:
    found = await of_hosts(mx, free_port())
    assert {each.status for each in found.values()} == {"wrong"}
    assert "docs/tracking.md" in found["links.mail.test"].advice and "policy" in found["mta-sts.mail.test"].advice
    gone = await of_hosts(mx, 1, {name: zone for name, zone in ANNOUNCED.items() if name not in HOSTS})
    assert {each.status for each in gone.values()} == {"wrong"}


async def test_only_hosts_that_something_leads_to_are_asked(mx: SmtpServer) -> None:
    pending = {**SHOP, "record_status": {"tracking:links": "pending"}}
    silent = {name: zone for name, zone in ANNOUNCED.items() if name != "_mta-sts.mail.test"}
    found = await of_hosts(mx, free_port(), silent, domains=(pending,))
    assert {host: each.status for host, each in found.items()} == {"mta-sts.mail.test": "ok"}
    assert "announces no MTA-STS policy" in found["mta-sts.mail.test"].text
    assert await of_hosts(mx, free_port(), domains=({**SHOP, "receiving": False, "record_status": {}},)) == {}


async def test_a_name_that_a_tenant_leads_inside_is_not_connected_to(mx: SmtpServer, tmp_path: Path) -> None:
    async with https(certificate(tmp_path, "*.mail.test", days=60, issuer="An Authority")) as port:
        found = await of_hosts(mx, port, allow=())
    assert {each.status for each in found.values()} == {"unknown"}
    assert all("private" in each.text for each in found.values())


async def test_a_domain_that_stands_on_a_list(mx: SmtpServer) -> None:
    what = scene(mx, blocklists=(), domain_blocklists=("dbl.test",))
    zones = {"dbl.test": {"A": ["192.0.2.7"]}}
    well = (await examined(what, zones))["blocklist"]
    assert (well.subject, well.status) == ("mail.test dbl.test", "ok")
    listed = {**zones, "mail.test.dbl.test": {"A": ["127.0.1.2"], "TXT": ["spam domain"]}}
    wrong = (await examined(what, listed))["blocklist"]
    assert wrong.status == "wrong" and "mail.test stands on dbl.test: spam domain" in wrong.text
    assert "ask dbl.test to remove the domain" in wrong.advice
    closed = (await examined(what, {**zones, "mail.test.dbl.test": {"A": ["127.255.255.254"]}}))["blocklist"]
    assert closed.status == "unknown" and "POSTROOM_HEALTH__DOMAIN_BLOCKLISTS" in closed.advice


# ---- a check that fails itself ----------------------------------------------------------------------------------------


class Broken(DnsResolver):
    """A resolver that has a bug when it is asked for a PTR record."""

    async def ptr(self, ip: str) -> Records[str]:
        raise RuntimeError("nobody foresaw this")


async def test_a_check_that_fails_is_a_finding_and_the_others_stand(mx: SmtpServer) -> None:
    async with DnsServer(GOOD) as dns:
        found = {each.check: each for each in await examine(scene(mx), Broken([dns.address], timeout=60, cache_size=0))}
    assert found["ptr"].status == "unknown" and "RuntimeError" in found["ptr"].text and found["ptr"].advice
    assert {check: each.status for check, each in found.items() if check != "ptr"} == dict.fromkeys(
        ("port-out", "ehlo", "spf", "dkim", "dmarc", "blocklist", "port-in", "certificate"), "ok"
    )


async def test_all_addresses_paused(store: Store, mx: SmtpServer) -> None:
    """A pool carries everything, and nothing leaves from it just now: there is still a port to look at."""
    own = HowMailLeaves(route="mx", source_ip=IP, mx_port=mx.port, ehlo_name="out.test")
    settings = SimpleNamespace(
        outbound=own, health=Health(blocklists=[], probe_domain="probe.test"), scanners=Scanners(), network=Network()
    )
    async with store.worker() as db:
        pool = await sources.add_pool(db, "all", [("", 0), ("", 1)], None)
    await flow.add_source(store, {"pool_id": pool, "ipv4": IP, "ehlo_name": "out.test"}, schedule=[5], warm=True)
    async with store.worker() as db:
        id_ = await db.fetchval("SELECT id FROM sources")
    await flow.change_source(store, id_, {}, WarmupChange(paused=True))
    what = await health.scene(settings, Published("mx.test", f"ip4:{IP}"), store)
    assert what.sources == ()
    found = await examined(what)
    assert {check: found[check].status for check in ("port-in", "port-out", "certificate")} == {
        "port-in": "ok",
        "port-out": "ok",
        "certificate": "ok",
    }
    assert [each for each in mx.talks if each], "the server has been asked"


@pytest.mark.parametrize("lists", [[], ["dbl.test"]])
async def test_lists_of_domains_are_a_setting(store: Store, lists: list[str]) -> None:
    settings = SimpleNamespace(
        outbound=HowMailLeaves(), health=Health(domain_blocklists=lists), scanners=Scanners(), network=Network()
    )
    assert (await health.scene(settings, Published("mx.test", ""), store)).domain_blocklists == tuple(lists)
