"""DANE and MTA-STS end to end: a validating resolver, a signed zone, policy hosts, mail servers with real certificates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from fakes import mtas
from fakes.authority import Authority, Server, tlsa
from fakes.smtp_server import SmtpServer
from fakes.validating_resolver import ValidatingResolver, Zone
from integration.outbound.harness import Tenant, until
from integration.outbound.tls_lab import Outbound, Sts, attempt_of, by_mx, good, signed
from mailcore.dsn import tls_report
from mailcore.mime.parse import Message
from outbound.paces import Paces

# ---- DANE ------------------------------------------------------------------------------------------------------------


@pytest.mark.peer("unbound")
@pytest.mark.parametrize("usage", [3, 2])
async def test_a_certificate_that_the_records_name_delivers(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path, usage: int
) -> None:
    """DANE-EE by the server's own key, DANE-TA by its authority's. No public authority knows either."""
    server = authority.server("mx.dane.example")
    record = tlsa(usage, server.certificate if usage == 3 else authority.certificate)
    async with (
        SmtpServer(tls=server.context) as peer,
        signed(tmp_path, peer, record) as dns,
        outbound(**by_mx(dns.address, peer)),
    ):
        attempt = await attempt_of(tenant, "dane.example")
    assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "dane")
    assert attempt["tls"].startswith("TLSv1.3 ")
    assert [caught.tls for caught in peer.caught] == [True]


@pytest.mark.peer("unbound, postfix")
async def test_postfix_gets_mail_while_the_record_is_that_of_its_key(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path
) -> None:
    """A mail server of others, before and after its key was changed without a word to the DNS."""
    if os.geteuid() != 0:
        pytest.skip("Postfix is started as root only")
    server, renewed = authority.server("mx.peer.test"), authority.server("mx.peer.test")
    attempts = []
    async with SmtpServer() as sink:
        for each in (server, renewed):
            with passable() as folder:
                pem = folder / "pem"
                pem.write_bytes(each.pem)
                with mtas.postfix(folder / "mx", sink.port, pem) as port:
                    records = {
                        "peer.test": {"MX": ["10 mx.peer.test."]},
                        "mx.peer.test": {"A": ["127.0.0.1"]},
                        f"_{port}._tcp.mx.peer.test": {"TLSA": [tlsa(3, server.certificate)]},
                    }
                    async with ValidatingResolver(tmp_path, [Zone("peer.test", records, signed=True)]) as dns:
                        settings = by_mx(dns.address, sink) | {"mx_port": port}
                        async with outbound(**settings):
                            email_id = await tenant.send("bob@peer.test")
                            await until(lambda email_id=email_id: tenant.attempts(email_id), "an attempt")
                    attempts += await tenant.attempts(email_id)
                    if each is server:
                        await until(lambda: _any(sink.caught), "Postfix passes it on")
    first, second = attempts
    assert (first["outcome"], first["tls_policy"], first["mx_host"]) == ("delivered", "dane", "mx.peer.test")
    assert (second["outcome"], second["rule"]) == ("deferred", "dane-failed")
    assert len(sink.caught) == 1


async def _any(caught: Sequence[object]) -> bool:
    return bool(caught)


@contextmanager
def passable() -> Iterator[Path]:
    """Postfix changes to users of its own, who must be able to pass through."""
    with TemporaryDirectory(prefix="postroom-lab-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.peer("unbound")
async def test_a_certificate_that_no_record_names_defers_with_the_reason(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path, admin: asyncpg.Connection
) -> None:
    record = tlsa(3, authority.server("mx.dane.example").certificate)
    async with (
        SmtpServer(tls=authority.server("mx.dane.example").context) as peer,
        signed(tmp_path, peer, record) as dns,
        outbound(**by_mx(dns.address, peer)),
    ):
        attempt = await attempt_of(tenant, "dane.example")
    assert (attempt["outcome"], attempt["rule"], attempt["enhanced_code"]) == ("deferred", "dane-failed", "4.7.5")
    assert "matches none of the host's TLSA records" in attempt["reply"]
    assert peer.caught == []
    assert not peer.commands("MAIL")
    # it is this host's, not the site's: others who go there without DANE are not kept back
    assert await admin.fetchval("SELECT count(*) FROM sites WHERE failures > 0") == 0


@pytest.mark.peer("unbound")
async def test_a_name_that_the_anchor_does_not_vouch_for_defers(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path
) -> None:
    async with (
        SmtpServer(tls=authority.server("elsewhere.example").context) as peer,
        signed(tmp_path, peer, tlsa(2, authority.certificate, 0, 2)) as dns,
        outbound(**by_mx(dns.address, peer)),
    ):
        attempt = await attempt_of(tenant, "dane.example")
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "dane-failed")
    assert "trust anchor" in attempt["reply"]
    assert peer.caught == []


@pytest.mark.peer("unbound")
@pytest.mark.parametrize("record", ["3 1 1", "0 0 1"], ids=["DANE", "records of no use to SMTP"])
async def test_starttls_taken_away_is_refused_under_dane(
    tenant: Tenant, outbound: Outbound, tmp_path: Path, record: str
) -> None:
    async with (
        SmtpServer() as peer,
        signed(tmp_path, peer, f"{record} {'ab' * 32}") as dns,
        outbound(**by_mx(dns.address, peer)),
    ):
        attempt = await attempt_of(tenant, "dane.example")
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "dane-failed")
    assert "offers no STARTTLS" in attempt["reply"]
    assert peer.caught == []


@pytest.mark.peer("unbound")
async def test_records_whose_signature_is_wrong_close_the_host(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path
) -> None:
    """Nobody can tell what the records were: nothing is even said to the host."""
    server = authority.server("mx.dane.example")
    async with (
        SmtpServer(tls=server.context) as peer,
        signed(tmp_path, peer, f"3 1 1 {'ab' * 32}", tlsa(3, server.certificate)) as dns,
        outbound(**by_mx(dns.address, peer)),
    ):
        attempt = await attempt_of(tenant, "dane.example")
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "dane-failed")
    assert "nobody could tell" in attempt["reply"]
    assert not attempt["conversation"]
    assert peer.caught == []


@pytest.mark.peer("unbound")
async def test_without_dnssec_records_mean_nothing(
    tenant: Tenant, outbound: Outbound, authority: Authority, tmp_path: Path
) -> None:
    """Not signed; and signed, but by a resolver whose word is not taken."""
    wrong = f"3 1 1 {'ab' * 32}"
    async with SmtpServer(tls=authority.server("mx.dane.example").context) as peer:
        async with signed(tmp_path, peer, wrong, secure=False) as dns, outbound(**by_mx(dns.address, peer)):
            attempt = await attempt_of(tenant, "dane.example")
        assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "opportunistic")
        async with signed(tmp_path, peer, wrong) as dns:
            settings = by_mx(dns.address, peer)
            settings["dns"]["trust_ad"] = False
            async with outbound(**settings):
                attempt = await attempt_of(tenant, "dane.example")
        assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "opportunistic")


# ---- MTA-STS ---------------------------------------------------------------------------------------------------------


async def test_an_enforced_policy_takes_a_good_certificate(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts, admin: asyncpg.Connection
) -> None:
    sts.policy("enforce")
    async with SmtpServer(tls=good(authority).context) as peer, outbound(**sts.settings(peer)):
        attempt = await attempt_of(tenant, "sts.example")
    assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "mta-sts")
    assert [each.path for each in sts.host.asked] == ["/.well-known/mta-sts.txt"]
    kept = await admin.fetchrow("SELECT * FROM mta_sts_policies")
    assert kept is not None
    assert (kept["domain"], kept["policy_id"], kept["mode"], kept["max_age"]) == ("sts.example", "1", "enforce", 86400)


@pytest.mark.parametrize(
    ("made", "reason", "failure"),
    [
        (lambda authority: authority.server("other.example"), "mismatch", "certificate-host-mismatch"),
        (lambda authority: authority.server("mx.sts.example", ended=True), "expired", "certificate-expired"),
        (lambda _: Authority().server("mx.sts.example"), "self-signed", "certificate-not-trusted"),
        (lambda _: None, "offers no STARTTLS", "starttls-not-supported"),
    ],
    ids=["another name", "out of date", "unknown authority", "STARTTLS taken away"],
)
async def test_an_enforced_policy_defers_what_is_not_as_it_says_and_a_tested_one_delivers_and_reports(
    tenant: Tenant,
    outbound: Outbound,
    authority: Authority,
    sts: Sts,
    admin: asyncpg.Connection,
    made: Callable[[Authority], Server | None],
    reason: str,
    failure: str,
) -> None:
    server = made(authority)
    sts.policy("enforce")
    async with SmtpServer(tls=server.context if server else None) as peer:
        async with outbound(**sts.settings(peer)):
            attempt = await attempt_of(tenant, "sts.example")
        assert (attempt["outcome"], attempt["rule"], attempt["tls_policy"]) == ("deferred", "mta-sts-failed", "mta-sts")
        assert reason in attempt["reply"].lower() or reason in attempt["reply"]
        assert peer.caught == []
        assert not peer.commands("MAIL")

        sts.policy("testing", id_="2")
        async with outbound(**sts.settings(peer)):
            attempt = await attempt_of(tenant, "sts.example")
        assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "mta-sts-testing")
        assert len(peer.caught) == 1
        assert peer.caught[0].tls is (server is not None)
    rows = await admin.fetch(
        "SELECT policy, failure, sessions FROM tls_results WHERE domain = 'sts.example' ORDER BY 1"
    )
    modes = {row["policy"]["policy-string"][1]: (row["failure"]["result-type"], row["sessions"]) for row in rows}
    assert modes == {"mode: enforce": (failure, 1), "mode: testing": (failure, 1)}


async def test_a_host_that_the_policy_does_not_name_is_not_spoken_to(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    sts.policy("enforce", mx="*.elsewhere.example")
    async with SmtpServer(tls=good(authority).context) as peer, outbound(**sts.settings(peer)):
        attempt = await attempt_of(tenant, "sts.example")
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "mta-sts-failed")
    assert "does not name the host mx.sts.example" in attempt["reply"]
    assert not attempt["conversation"]
    assert peer.caught == []


async def test_a_kept_policy_holds_when_nothing_announces_it_any_more(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    """RFC 8461 §5.1: whoever can take away the record and the policy host wins nothing before the policy's end."""
    sts.policy("enforce")
    async with SmtpServer(tls=good(authority).context) as peer, outbound(**sts.settings(peer)):
        assert (await attempt_of(tenant, "sts.example"))["outcome"] == "delivered"
    del sts.zones["_mta-sts.sts.example"], sts.zones["mta-sts.sts.example"]
    async with SmtpServer() as stripped, outbound(**sts.settings(stripped)):
        attempt = await attempt_of(tenant, "sts.example")
    assert (attempt["outcome"], attempt["rule"]) == ("deferred", "mta-sts-failed")
    assert stripped.caught == []


async def test_a_policy_that_cannot_be_fetched_is_reported_and_keeps_nothing_back(
    tenant: Tenant,
    outbound: Outbound,
    authority: Authority,
    sts: Sts,
    admin: asyncpg.Connection,
) -> None:
    sts.policy("enforce")
    sts.host.pages["/.well-known/mta-sts.txt"] = (301, "text/plain", b"")
    async with (
        SmtpServer(tls=authority.server("other.example").context) as peer,
        outbound(paces=Paces(tls_flush=0.1), **sts.settings(peer)),
    ):
        attempt = await attempt_of(tenant, "sts.example")
        # while the process runs: one that is killed has lost next to nothing
        await until(lambda: admin.fetchval("SELECT count(*) = 2 FROM tls_results"), "the counts are stored")
    assert (attempt["outcome"], attempt["tls_policy"]) == ("delivered", "opportunistic")
    assert [each.path for each in sts.host.asked] == ["/.well-known/mta-sts.txt"], "redirects are not followed"
    rows = await admin.fetch("SELECT policy, failure FROM tls_results WHERE domain = 'sts.example'")
    told = {row["policy"]["policy-type"]: row["failure"] and row["failure"]["result-type"] for row in rows}
    assert told == {"no-policy-found": None, "sts": "sts-policy-fetch-error"}


async def test_a_mail_that_says_tls_required_no_goes_all_the_same(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    """RFC 8689 §5: reports about TLS must come through where TLS fails."""
    sts.policy("enforce")
    async with SmtpServer(tls=authority.server("other.example").context) as peer, outbound(**sts.settings(peer)):
        held = await attempt_of(tenant, "sts.example")
        ids = [
            await tenant.send("a@sts.example", headers={"TLS-Required": "No"}),
            await tenant.send("a@sts.example", html=None, text=None, raw=RAW % b"TLS-Required: No\r\n"),
        ]
        for each in ids:
            await tenant.state(each, "delivered")
        # in the text it is no header
        text = await tenant.send("a@sts.example", html=None, text=None, raw=RAW % b"" + b"TLS-Required: No\r\n")
        await until(lambda: tenant.attempts(text), "an attempt")
    assert held["outcome"] == "deferred"
    for each in ids:
        assert (await tenant.attempts(each))[0]["tls_policy"] == "opportunistic"
    assert (await tenant.attempts(text))[0]["outcome"] == "deferred"
    assert len(peer.caught) == 2


async def test_who_asked_for_reports_gets_one_by_mail_although_tls_fails(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts, admin: asyncpg.Connection
) -> None:
    """From a mail that had to wait to the report that says so, over the connection that its policy forbids."""
    sts.policy("enforce")
    async with SmtpServer(tls=authority.server("other.example").context) as peer:
        async with outbound(**sts.settings(peer)):
            assert (await attempt_of(tenant, "sts.example"))["outcome"] == "deferred"
        await admin.execute("UPDATE tls_results SET day = day - 1")
        async with outbound(**sts.settings(peer)):
            await until(lambda: admin.fetchval("SELECT count(*) FROM tls_reports"), "the report is planned")
        assert peer.caught == [], "its hour has not come"
        await admin.execute("UPDATE tls_reports SET due_at = now()")
        async with outbound(**sts.settings(peer)):
            await until(lambda: _any(peer.caught), "the report")
    (caught,) = peer.caught
    assert (caught.rcpt_to, caught.tls) == (["reports@sts.example"], True)
    report = tls_report.in_mail(Message(caught.content))
    assert report is not None
    assert (report.domains, report.successful, report.failed) == ({"sts.example"}, 0, 1)
    (policy,) = report.content["policies"]
    assert policy["policy"]["policy-string"][:2] == ["version: STSv1", "mode: enforce"]
    assert policy["failure-details"][0]["result-type"] == "certificate-host-mismatch"
    assert b"DKIM-Signature:" in caught.content


RAW = b"From: us@postroom.test\r\n%bSubject: s\r\nMessage-ID: <1@postroom.test>\r\n\r\nText.\r\n"


async def test_domains_of_one_site_with_other_policies_do_not_share_connections(
    tenant: Tenant, outbound: Outbound, authority: Authority, sts: Sts
) -> None:
    """plain.example has the same mail host and no policy: its mail goes, in clear, while that of sts.example waits."""
    sts.policy("enforce")
    sts.zones["plain.example"] = {"MX": ["10 mx.sts.example."]}
    async with SmtpServer() as peer, outbound(**sts.settings(peer)):
        ids = await tenant.send_each(
            [[f"{n}@{domain}"] for n in range(5) for domain in ("sts.example", "plain.example")]
        )
        for plain in ids[1::2]:
            await tenant.state(plain, "delivered")
        for strict in ids[::2]:
            await until(lambda strict=strict: tenant.attempts(strict), "an attempt")
    assert {caught.rcpt_to[0].partition("@")[2] for caught in peer.caught} == {"plain.example"}
    assert {(await tenant.delivery(each))["state"] for each in ids[::2]} == {"queued"}
