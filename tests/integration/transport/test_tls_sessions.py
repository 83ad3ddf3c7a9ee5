"""What reports count: each connection once for each domain, and those that failed before one that took the mail."""

from __future__ import annotations

import ssl
from dataclasses import replace

from fakes.authority import Authority
from fakes.smtp_server import CUT, SmtpServer, Step
from mailcore.dns.resolver import TlsaRecord
from mailcore.smtp.outcome import Result
from mailcore.transport import Destination, Hop, Pool, TlsPolicy
from mailcore.transport.tls import FailureType, Kind, Security

from .harness import PATIENT, certificate, deliver, mail

WRONG = Security(Kind.DANE, (TlsaRecord(3, 1, 1, b"\1" * 32),), ("mx0.test",))
CLOSED = Security(Kind.CLOSED, why="nobody could tell", failure=FailureType.DNSSEC)


def hop(server: SmtpServer, security: Security, n: int = 0) -> Hop:
    return Hop(f"mx{n}.test", ("127.0.0.1",), server.port, preference=n, security=security)


async def test_the_next_host_takes_the_mail_and_the_first_one_is_reported() -> None:
    async with SmtpServer(tls=certificate()[0]) as bad, SmtpServer(tls=certificate()[0]) as good:
        hops = (hop(bad, CLOSED), hop(bad, WRONG, 1), hop(good, Security(), 2))
        run = await deliver(Destination("site", hops), [mail("a"), mail("b")], connections=1)
    for name in ("a", "b"):
        outcome = run[name]
        assert (outcome.result, outcome.mx_host, outcome.tls_policy) == (Result.DELIVERED, "mx2.test", "opportunistic")
        assert [(each.mx_host, each.policy, each.failure) for each in outcome.sessions] == [
            ("mx0.test", "tlsa", "dnssec-invalid"),
            ("mx1.test", "tlsa", "validation-failure"),
            ("mx2.test", "no-policy-found", None),
        ]
    assert run["a"].sessions == run["b"].sessions, "the same ones: whoever counts can tell"
    assert bad.commands("MAIL") == []


async def test_mail_that_no_host_is_left_for_fails_without_a_connection_each() -> None:
    async with SmtpServer(tls=certificate()[0]) as bad:
        run = await deliver(Destination("site", (hop(bad, WRONG),)), [mail(f"m{n}") for n in range(50)])
        assert len(bad.talks) <= 2
    assert {outcome.rule for outcome in run.outcomes.values()} == {"dane-failed"}


async def test_a_connection_is_kept_for_those_who_asked_for_the_same() -> None:
    """The site is one, and so is its limit; what one domain's policy let through is not used for another's mail."""
    authority = Authority()
    server = authority.server("mx0.test")
    pool = Pool("ours.test", timeouts=PATIENT)
    async with SmtpServer(tls=server.context) as peer:
        plain = Destination("site", (hop(peer, Security()),))
        strict = replace(plain, hops=(hop(peer, Security(Kind.STS)),))
        assert plain.pool_key == strict.pool_key
        assert (await deliver(plain, [mail("a")], pool=pool))["a"].result is Result.DELIVERED
        assert (await deliver(strict, [mail("b")], pool=pool))["b"].rule == "mta-sts-failed"
        assert (await deliver(plain, [mail("c")], pool=pool))["c"].result is Result.DELIVERED
        relaxed = replace(strict, tls=TlsPolicy.NOT_REQUIRED)
        outcome = (await deliver(relaxed, [mail("d")], pool=pool))["d"]
        assert (outcome.result, outcome.sessions) == (Result.DELIVERED, ())
        await pool.close()


async def test_a_tested_policy_costs_a_second_connection_once() -> None:
    pool = Pool("ours.test", timeouts=PATIENT)
    async with SmtpServer(tls=certificate("other.test")[0]) as peer:
        testing = Destination("site", (hop(peer, Security(Kind.STS_TESTING)),))
        for name, talks in (("a", 2), ("b", 3)):
            outcome = (await deliver(testing, [mail(name)], pool=pool))[name]
            await pool.close()
            assert (outcome.result, outcome.tls_policy) == (Result.DELIVERED, "mta-sts-testing")
            assert [each.failure for each in outcome.sessions] == ["certificate-not-trusted"]
            assert len(peer.talks) == talks
    assert [caught.tls for caught in peer.caught] == [True, True]


async def test_a_tested_policy_is_tested_again_after_a_passing_failure() -> None:
    """A cut in the handshake says nothing about the certificate: nor do the reports, of the next connection."""
    authority = Authority()
    context = ssl.create_default_context(cadata=authority.pem.decode())
    async with SmtpServer(tls=authority.server("mx0.test").context) as peer:
        testing = Destination("site", (hop(peer, Security(Kind.STS_TESTING)),), tls_context=context)
        pool = Pool("ours.test", timeouts=PATIENT)
        for name, script, failure in (("a", {"handshake": CUT}, "validation-failure"), ("b", {}, None)):
            peer.script = script
            outcome = (await deliver(testing, [mail(name)], pool=pool))[name]
            await pool.close()
            assert (outcome.result, outcome.tls is None) == (Result.DELIVERED, failure is not None)
            assert [each.failure for each in outcome.sessions] == [failure]
    assert len(peer.talks) == 4


async def test_a_tested_policy_sends_in_clear_where_tls_fails_altogether() -> None:
    async with SmtpServer({"starttls": Step("454 4.7.0 not now")}, tls=certificate()[0]) as peer:
        testing = Destination("site", (hop(peer, Security(Kind.STS_TESTING)),))
        outcome = (await deliver(testing, [mail("a")]))["a"]
    assert (outcome.result, outcome.tls) == (Result.DELIVERED, None)
    assert [each.failure for each in outcome.sessions] == ["starttls-not-supported"]
