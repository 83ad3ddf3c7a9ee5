"""Each health check, well and failing, against a name server and mail servers on loopback."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fakes.dns_server import DnsServer
from fakes.smtp_server import CUT, SmtpServer, Step
from mailcore.dns.required import Published
from mailcore.dns.resolver import DnsResolver
from mailcore.flow import health, health_checks
from mailcore.flow import sources as flow
from mailcore.flow.health import examine, examine_store, look
from mailcore.flow.health_checks import Scene, Source
from mailcore.flow.sources import WarmupChange
from mailcore.kit.settings import Health, HowMailLeaves, Network, Scanners
from mailcore.mailauth.dkim.keys import generate_rsa
from mailcore.store import sources
from mailcore.store.health import Finding, findings
from mailcore.store.session import Store
from mailcore.transport.probe import Probe, probe
from peers import free_port

IP = "127.0.0.1"
"""The laboratory's only address: its name server says what it is called."""
REVERSE = "1.0.0.127.in-addr.arpa"
KEY = generate_rsa()[1]
DOMAIN = {
    "id": UUID(int=7),
    "name": "mail.test",
    "sending": True,
    "receiving": False,
    "custom_return_path": "send",
    "tracking_subdomain": None,
    "old_tracking": [],
    "record_status": {},
    "dkim": [{"selector": "s1", "public_txt": KEY}],
}
Zones = dict[str, Mapping[str, Sequence[str]]]
GOOD: Zones = {
    REVERSE: {"PTR": ["out.test."]},
    "out.test": {"A": [IP]},
    "mx.test": {"A": [IP]},
    "probe.test": {"MX": ["10 mx.probe.test."]},
    "mx.probe.test": {"A": [IP]},
    "mail.test": {"A": [IP]},
    "send.mail.test": {"TXT": [f"v=spf1 ip4:{IP} ~all"]},
    "s1._domainkey.mail.test": {"TXT": [KEY]},
    "_dmarc.mail.test": {"TXT": ["v=DMARC1; p=none"]},
    "bl.test": {"A": ["192.0.2.7"]},
}


def certificate(folder: Path, name: str, *, days: int = 90, issuer: str | None = None) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}-{days}.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no host that does not answer."""
    monkeypatch.setattr(health_checks, "SECONDS", 110.0)


@pytest.fixture
async def mx(tmp_path: Path) -> AsyncIterator[SmtpServer]:
    """Our own MX, and everybody else's: one server stands for both."""
    async with SmtpServer(tls=certificate(tmp_path, "mx.test")) as server:
        yield server


def scene(mx: SmtpServer, **changed: Any) -> Scene:
    given = {
        "route": "mx",
        "sources": (Source(IP, "out.test"),),
        "published": Published("mx.test", f"ip4:{IP}"),
        "mx_port": mx.port,
        "blocklists": ("bl.test",),
        "probe_domain": "probe.test",
        "domains": (DOMAIN,),
    }
    return Scene(**{**given, **changed})


async def examined(
    what: Scene, changed: Zones | None = None, gone: Sequence[str] = (), *, failing: Sequence[str] = ()
) -> dict[str, Finding]:
    zones = {name: records for name, records in {**GOOD, **(changed or {})}.items() if name not in gone}
    async with DnsServer(zones, failing=failing) as server:
        found = await examine(what, DnsResolver([server.address], timeout=60, cache_size=0))
    return {each.check: each for each in found}


CHECKS = {"port-out", "ptr", "ehlo", "spf", "dkim", "dmarc", "blocklist", "port-in", "certificate"}


async def test_an_installation_that_is_well(mx: SmtpServer) -> None:
    found = await examined(scene(mx))
    assert {(each.check, each.status) for each in found.values()} == {(check, "ok") for check in CHECKS}
    assert not any(each.advice for each in found.values())
    assert mx.caught == [], "no mail is sent"


BROKEN: list[Any] = [
    pytest.param("ptr", {}, [REVERSE], "has no name", "Ask whoever gave you 127.0.0.1", id="no PTR"),
    pytest.param(
        "ptr", {REVERSE: {"PTR": ["dsl-1.isp.test."]}}, [], "does not lead back", "Publish A", id="PTR without forward"
    ),
    pytest.param(
        "ptr", {"out.test": {"A": ["192.0.2.99"]}}, [], "does not lead back", "Publish A", id="forward elsewhere"
    ),
    pytest.param(
        "ehlo", {"out.test": {"A": ["192.0.2.99"]}}, [], "leads to 192.0.2.99", "Publish A", id="EHLO elsewhere"
    ),
    pytest.param("spf", {}, ["send.mail.test"], "has no SPF record", f"v=spf1 ip4:{IP}", id="no SPF"),
    pytest.param(
        "spf", {"send.mail.test": {"TXT": ["v=spf1 -all"]}}, [], "says fail", f"v=spf1 ip4:{IP}", id="SPF of others"
    ),
    pytest.param("spf", {"send.mail.test": {"TXT": ["v=spf1 ip4:x"]}}, [], "broken SPF", f"ip4:{IP}", id="broken SPF"),
    pytest.param("dkim", {}, ["s1._domainkey.mail.test"], "does not hold the key", "Publish the TXT", id="no DKIM"),
    pytest.param(
        "dkim",
        {"s1._domainkey.mail.test": {"TXT": ["v=DKIM1; p=AAAA"]}},
        [],
        "does not hold",
        "TXT",
        id="other DKIM key",
    ),
    pytest.param("dmarc", {}, ["_dmarc.mail.test"], "no DMARC policy", "v=DMARC1; p=none", id="no DMARC"),
    pytest.param(
        "blocklist",
        {"1.0.0.127.bl.test": {"A": ["127.0.0.2"], "TXT": ["spam"]}},
        [],
        "stands on bl.test: spam",
        "ask bl.test to remove",
        id="listed",
    ),
    pytest.param("port-in", {}, ["mx.test"], "mx.test", "leads here", id="our MX has no address"),
]


@pytest.mark.parametrize(("check", "changed", "gone", "text", "advice"), BROKEN)
async def test_each_check_fails_when_it_should(
    mx: SmtpServer, check: str, changed: Zones, gone: list[str], text: str, advice: str
) -> None:
    found = (await examined(scene(mx), changed, gone))[check]
    assert found.status == "wrong"
    assert text in found.text
    assert advice in found.advice and "\n" not in found.advice


NEWS = "127.0.0.2"
"""The address of a pool for broadcasts, beside the one that all else leaves from."""
NEWS_REVERSE = "2.0.0.127.in-addr.arpa"
GOOD_NEWS: Zones = {
    **GOOD,
    NEWS_REVERSE: {"PTR": ["news.test."]},
    "news.test": {"A": [NEWS]},
    "send.mail.test": {"TXT": [f"v=spf1 ip4:{IP} ip4:{NEWS} ~all"]},
}


def with_news(mx: SmtpServer, **changed: Any) -> Scene:
    news = Source(NEWS, "news.test", "news", NEWS, True)
    published = Published("mx.test", f"ip4:{IP} ip4:{NEWS}")
    given = {"sources": (Source(IP, "out.test"), news), "pools": {("", 1): "news"}, "published": published}
    return scene(mx, **{**given, **changed})


async def found_wrong(what: Scene, changed: Zones | None = None, gone: Sequence[str] = ()) -> list[Finding]:
    zones = {name: records for name, records in {**GOOD_NEWS, **(changed or {})}.items() if name not in gone}
    async with DnsServer(zones) as server:
        found = await examine(what, DnsResolver([server.address], timeout=60, cache_size=0))
    return [each for each in found if each.status != "ok"]


@pytest.mark.parametrize(
    ("check", "subject", "changed", "gone", "advice"),
    [
        ("ptr", NEWS, {}, [NEWS_REVERSE], f"Ask whoever gave you {NEWS}"),
        ("ptr", NEWS, {NEWS_REVERSE: {"PTR": ["dsl-2.isp.test."]}}, [], f"Publish A {NEWS} at dsl-2.isp.test"),
        ("ehlo", NEWS, {NEWS_REVERSE: {"PTR": ["also.test."]}, "also.test": {"A": [NEWS]}}, ["news.test"], "PATCH /v1/sources"),
        ("spf", f"mail.test {NEWS}", {"send.mail.test": {"TXT": [f"v=spf1 ip4:{IP} -all"]}}, [], f"ip4:{NEWS}"),
        ("blocklist", f"{NEWS} bl.test", {"2.0.0.127.bl.test": {"A": ["127.0.0.2"]}}, [], "ask bl.test to remove"),
    ],
    ids=["no PTR", "PTR without forward", "EHLO", "SPF", "listed"],
)  # fmt: skip
async def test_each_address_of_a_pool_is_looked_at(
    mx: SmtpServer, check: str, subject: str, changed: Zones, gone: list[str], advice: str
) -> None:
    (wrong,) = await found_wrong(with_news(mx), changed, gone)
    assert (wrong.check, wrong.subject, wrong.status) == (check, subject, "wrong")
    assert f"{NEWS} (pool news)" in wrong.text and advice in wrong.advice and "\n" not in wrong.advice


async def test_pools_that_are_well_and_tried_from_their_own_address(mx: SmtpServer) -> None:
    assert await found_wrong(with_news(mx)) == []
    assert {talk.peer[0] for talk in mx.talks} == {IP, NEWS}


async def test_mail_of_a_domain_is_looked_at_from_where_it_leaves(mx: SmtpServer) -> None:
    shop = {("", 0): "news", ("", 1): "news", ("mail.test", 0): "shop", ("mail.test", 1): "shop"}
    only_own = {"send.mail.test": {"TXT": [f"v=spf1 ip4:{IP} ~all"]}}
    sources = (Source(IP, "out.test", "shop", IP, True), Source(NEWS, "news.test", "news", NEWS, True))
    assert await found_wrong(with_news(mx, sources=sources, pools=shop), only_own) == []


async def test_an_address_that_no_machine_has(mx: SmtpServer) -> None:
    for usable, status, words in ((False, "wrong", "cannot assign"), (None, "unknown", "has tried lately")):
        lost = Source(
            "127.0.0.1", "out.test", "lost", "198.51.100.1", usable, "cannot assign" if usable is False else ""
        )
        (found,) = await found_wrong(with_news(mx, sources=(lost,), pools={("", 0): "lost", ("", 1): "lost"}))
        assert (found.check, found.subject, found.status) == ("source", IP, status)
        assert words in found.text and found.advice


@pytest.mark.parametrize(
    ("spf", "zones", "advice"),
    [
        (f"ip4:{IP}", {}, "Set POSTROOM_DOMAINS__SPF to an `include:`"),
        ("include:_spf.test", {"_spf.test": {"TXT": [f"v=spf1 ip4:{IP} -all"]}}, "what `include:_spf.test`"),
        (f"ip4:{IP} ip4:x", {}, "Set POSTROOM_DOMAINS__SPF"),
    ],
    ids=["address", "include", "broken"],
)
async def test_the_record_that_domains_are_told_covers_every_pool(
    mx: SmtpServer, spf: str, zones: Zones, advice: str
) -> None:
    wrong = await found_wrong(with_news(mx, published=Published("mx.test", spf)), zones)
    found = next(each for each in wrong if each.subject == NEWS)
    assert (found.check, found.status) == ("spf", "wrong")
    assert f"{NEWS} (pool news)" in found.text and advice in found.advice and f"ip4:{NEWS}" in found.advice


async def test_all_addresses_of_the_installation(store: Store, mx: SmtpServer) -> None:
    """Of the table and of the settings, by which pool carries what."""
    own = HowMailLeaves(route="mx", source_ip=IP, mx_port=mx.port, ehlo_name="out.test")
    settings = SimpleNamespace(outbound=own, health=Health(blocklists=[]), scanners=Scanners(), network=Network())

    async def seen() -> list[tuple[str, str, str, str, bool | None]]:
        what = await health.scene(settings, Published("mx.test", f"ip4:{IP}"), store)
        return [(each.ip, each.ehlo, each.pool, each.bound, each.usable) for each in what.sources]

    default = (IP, "out.test", "", "", None)
    assert await seen() == [default]
    async with store.worker() as db:
        empty = await sources.add_pool(db, "all", [("", 0), ("", 1)], None)
    assert await seen() == [default], "a pool without sources is not in use"
    await flow.add_source(store, {"pool_id": empty, "ipv4": "192.0.2.9", "ipv6": "2001:db8::9", "local_ipv4": "10.0.0.9",
                                  "ehlo_name": "nine.test"}, schedule=[5], warm=True)  # fmt: skip
    both = [
        ("192.0.2.9", "nine.test", "all", "10.0.0.9", None),
        ("2001:db8::9", "nine.test", "all", "2001:db8::9", None),
    ]
    assert await seen() == both, "nothing leaves from the address of the settings any more"
    async with store.worker() as db:
        await sources.change_pool(db, empty, name=None, serves=[("", 1)], overflow=None)
        id_ = await db.fetchval("SELECT id FROM sources")
        await sources.seen(db, "desk", [(id_, False, "10.0.0.9: cannot assign")])
    assert await seen() == [default, *((*each[:4], False) for each in both)]
    await flow.change_source(store, id_, {}, WarmupChange(paused=True))
    assert await seen() == [default], "a paused one sends nothing"


async def test_a_port_that_nobody_answers_on(mx: SmtpServer) -> None:
    found = await examined(scene(mx, mx_port=free_port()))
    assert {check: found[check].status for check in ("port-in", "port-out", "certificate")} == {
        "port-in": "wrong",
        "port-out": "wrong",
        "certificate": "unknown",
    }
    assert "smart host" in found["port-out"].advice and "inbound-smtp" in found["port-in"].advice


@pytest.mark.parametrize(
    "script",
    [
        {"greeting": Step("554 go away")},
        {"greeting": CUT},
        {"greeting": Step("")},
        {"greeting": Step("220" + "x" * 10_000)},
        {"greeting": Step("220-more\r\n" * 500)},
        {"greeting": Step("\xff\xfe nonsense")},
    ],
    ids=["refuses", "cuts", "silent", "long", "endless", "nonsense"],
)
async def test_a_server_that_does_not_greet(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def soon(*where: Any, **how: Any) -> Awaitable[Probe]:
        """The server is given up before the check is."""
        return probe(*where, **{**how, "seconds": 1.0})

    monkeypatch.setattr(health_checks, "probe", soon)
    async with SmtpServer(script) as server:
        assert (await examined(scene(server)))["port-in"].status == "wrong"


async def test_where_there_is_nobody_to_try_with_nothing_is_known(mx: SmtpServer) -> None:
    found = (await examined(scene(mx), gone=["probe.test", "mx.probe.test"]))["port-out"]
    assert found.status == "unknown" and "PROBE_DOMAIN" in found.advice
    assert (await examined(scene(mx, probe_domain="")))["port-out"].status == "unknown"


async def test_certificates(mx: SmtpServer, tmp_path: Path) -> None:
    for name, days, status, words in (
        ("mx.test", 60, "ok", "holds for"),
        ("mx.test", 5, "wrong", "expires in"),
        ("mx.test", -5, "wrong", "expired on"),
        ("other.test", 60, "wrong", "is for other.test"),
    ):
        async with SmtpServer(tls=certificate(tmp_path, name, days=days)) as server:
            found = (await examined(scene(server)))["certificate"]
        assert (found.status, words in found.text) == (status, True), found
        assert bool(found.advice) == (status == "wrong")
    async with SmtpServer() as server:
        found = (await examined(scene(server)))["certificate"]
    assert found.status == "wrong" and "STARTTLS" in found.text and "TLS_CERT" in found.advice


async def test_the_certificate_of_the_api(mx: SmtpServer, tmp_path: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    for context, status, words in (
        (certificate(tmp_path, "api.test", days=60), "wrong", "signed by itself"),
        (certificate(tmp_path, "api.test", days=60, issuer="An Authority"), "ok", "CN=An Authority"),
        (certificate(tmp_path, "api.test", days=3, issuer="An Authority"), "wrong", "expires in"),
    ):
        server = await asyncio.start_server(hang_up, IP, 0, ssl=context)
        try:
            what = scene(mx, public_url=f"https://api.test:{server.sockets[0].getsockname()[1]}")
            async with DnsServer({**GOOD, "api.test": {"A": [IP]}}) as dns:
                found = await examine(what, DnsResolver([dns.address], timeout=60, cache_size=0))
        finally:
            server.close()
        of_api = next(each for each in found if each.check == "certificate" and each.subject == "api.test")
        assert (of_api.status, words in of_api.text) == (status, True), of_api
    gone = await examined(scene(mx, public_url=f"https://{IP}:{free_port()}"))
    assert gone["certificate"].status == "wrong" and "proxy" in gone["certificate"].advice


async def test_a_dns_that_does_not_answer_is_no_verdict(mx: SmtpServer) -> None:
    found = await examined(scene(mx), failing=[REVERSE, "send.mail.test", "_dmarc.mail.test", "1.0.0.127.bl.test"])
    assert {found[check].status for check in ("ptr", "spf", "dmarc", "blocklist")} == {"unknown"}


async def test_a_list_that_refuses_to_answer_is_no_all_clear(mx: SmtpServer) -> None:
    found = (await examined(scene(mx), {"1.0.0.127.bl.test": {"A": ["127.255.255.254"]}}))["blocklist"]
    assert found.status == "unknown" and "BLOCKLISTS" in found.advice


async def test_behind_nat_the_name_we_greet_with_says_who_we_are(mx: SmtpServer) -> None:
    found = await examined(scene(mx, sources=(Source("10.0.0.5", "out.test"),)))
    assert found["ptr"].subject == IP and found["ptr"].status == "ok"
    nobody = await examined(scene(mx, sources=(Source("", "nobody.test"),)))
    assert nobody["ehlo"].status == "wrong" and "EHLO_NAME" in nobody["ehlo"].advice and "ptr" not in nobody


async def test_by_a_smart_host_our_own_addresses_do_not_matter(mx: SmtpServer) -> None:
    found = await examined(scene(mx, route="smarthost", smarthost=("mx.test", mx.port)), gone=[REVERSE])
    assert found["port-out"].status == "ok"
    assert not {"ptr", "ehlo", "spf", "blocklist"} & set(found)
    off = await examined(scene(mx, route="smarthost", smarthost=("mx.test", free_port())))
    assert off["port-out"].status == "wrong" and "mx.test" in off["port-out"].advice


async def test_where_no_mail_leaves_nothing_is_looked_at(mx: SmtpServer) -> None:
    found = await examined(scene(mx, route="catch"))
    assert list(found) == ["route"] and mx.talks == []


async def test_the_clock(store: Store) -> None:
    def later() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=600)

    def earlier() -> datetime:
        return datetime.now(UTC) - timedelta(seconds=600)

    for clock in (later, earlier):
        found = {each.check: each for each in await examine_store(store, clock)}
        assert found["clock"].status == "wrong" and "NTP" in found["clock"].advice
        apart = re.search(r"(\d+) s apart", found["clock"].text)
        assert apart is not None and 500 < int(apart[1]) <= 600  # less what the database took to answer
    found = {each.check: each for each in await examine_store(store, lambda: datetime.now(UTC))}
    assert found["clock"].status == "ok"


async def test_mail_that_nobody_takes(store: Store, tenant_mail: UUID, admin: asyncpg.Connection) -> None:
    found = {each.check: each for each in await examine_store(store, lambda: datetime.now(UTC))}
    assert found["queue"].status == "ok"
    await admin.execute("UPDATE queue SET due_at = now() - interval '10 minutes'")
    found = {each.check: each for each in await examine_store(store, lambda: datetime.now(UTC))}
    assert found["queue"].status == "wrong" and "example.com" in found["queue"].text
    assert "outbound" in found["queue"].advice


async def test_a_site_that_refuses_because_of_us(store: Store, admin: asyncpg.Connection) -> None:
    def said(code: int, enhanced: str, text: str, hours: int = 1) -> dict[str, Any]:
        at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        return {"at": at, "code": code, "enhanced_code": enhanced, "text": text, "rule": None, "count": 3}

    block = said(550, "5.7.1", "Our system has detected that 127.0.0.1 is listed at zen.spamhaus.org, see the RBL")
    old = {**block, "at": said(0, "", "", 30)["at"]}
    for key, replies in (
        ("mx:big.test", [said(451, "4.2.1", "try again later"), block]),
        ("mx:user.test", [said(550, "5.1.1", "no such user")]),
        ("mx:old.test", [old]),
    ):
        await admin.execute("INSERT INTO sites (key, replies) VALUES ($1, $2)", key, replies)
    found = [each for each in await examine_store(store, health.now) if each.check == "refusal"]
    assert [(each.subject, each.status) for each in found] == [("mx:big.test", "wrong")]
    assert "zen.spamhaus.org" in found[0].text and "send less" in found[0].advice
    await admin.execute("UPDATE sites SET replies = '[]'")
    found = [each for each in await examine_store(store, health.now) if each.check == "refusal"]
    assert [each.status for each in found] == ["ok"]


@pytest.fixture
async def tenant_mail(store: Store, ringer: Any, org: UUID, domain: UUID, tmp_path: Path) -> UUID:
    from mailcore.blob.local import LocalBlobs
    from mailcore.flow.submit import NewEmail, Submits
    from mailcore.smtp.address import parse_address

    to = "a@example.com"
    email = NewEmail("us@postroom.test", "postroom.test", [to], [parse_address(to)], "s", text="t")
    return (await Submits(store, ringer, LocalBlobs(tmp_path / "b")).submit(org, [email], door="test")).ids[0]


async def test_a_look_is_kept_for_everybody_to_read_and_takes_the_place_of_the_one_before(
    store: Store, org: UUID, domain: UUID, mx: SmtpServer
) -> None:
    own = HowMailLeaves(route="mx", source_ip=IP, mx_port=mx.port, ehlo_name="out.test")
    settings = SimpleNamespace(
        outbound=own,
        health=Health(blocklists=["bl.test"], domain_blocklists=[], probe_domain="probe.test"),
        scanners=Scanners(),
        network=Network(),
    )
    what = await health.scene(settings, Published("mx.test", f"ip4:{IP}"), store)
    async with DnsServer(GOOD) as server:
        resolver = DnsResolver([server.address], timeout=60, cache_size=0)
        for _ in range(2):
            found = await look(store, resolver, what)
    async with store.tenant(org) as db:
        rows = await findings(db)
    assert [(row["check"], row["subject"], row["status"]) for row in rows] == [
        (each.check, each.subject, each.status) for each in found
    ]
    # the verified domain is among what is looked at, and its records are not in this DNS
    wrong = {row["check"] for row in rows if "postroom.test" in row["subject"] and row["status"] == "wrong"}
    assert wrong == {"spf", "dkim", "dmarc"}
    assert {row["check"] for row in rows} == CHECKS | {"clock", "queue", "refusal"}
