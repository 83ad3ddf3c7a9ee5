"""From connect to ready: TLS policies, injection, AUTH, source address."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime
from ssl import TLSVersion

import pytest

from fakes.smtp_server import CUT, SILENT, SmtpServer, Step, Talk
from mailcore.dns.resolver import TlsaRecord
from mailcore.smtp.outcome import Result
from mailcore.transport import Credentials, Destination, Hop, Pool, TlsPolicy
from mailcore.transport.tls import Kind, Security

from .harness import PATIENT, certificate, deliver, hop, mail, to

SECRET = Credentials("user", "pass word")


async def test_opportunistic_takes_any_certificate() -> None:
    server_tls, _ = certificate("someone-else.test")
    async with SmtpServer(tls=server_tls) as server:
        run = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a"), mail("b")])
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert [c.tls for c in server.caught] == [True, True]
        assert run["a"].tls.startswith("TLSv1.3 ")
        assert server.talks[0].commands[:3] == ["EHLO ours.test", "STARTTLS", "EHLO ours.test"]
        said = [line.said for line in run["a"].conversation if line.said]
        assert said[:3] == ["EHLO ours.test", "STARTTLS", "EHLO ours.test"]
        assert not any(line.said == "STARTTLS" for line in run["b"].conversation)


WEAK = ":@SECLEVEL=0"
OLD = {
    "TLSv1": {"most": TLSVersion.TLSv1, "ciphers": "DEFAULT" + WEAK},
    "TLSv1.1": {"most": TLSVersion.TLSv1_1, "ciphers": "DEFAULT" + WEAK},
    "TLSv1.2": {"most": TLSVersion.TLSv1_2, "ciphers": "AES128-SHA" + WEAK},  # no forward secrecy, SHA-1
    "TLSv1.3": {"ciphers": "DEFAULT" + WEAK},
}


@pytest.mark.parametrize("version", OLD)
async def test_weak_tls_is_better_than_none_and_no_policy_takes_it(version: str) -> None:
    """RFC 7435 §3. Of old versions, of an old cipher, of a key of 1,024 bits; where TLS must hold, nothing goes."""
    server_tls, client_tls = certificate("mx0.test", rsa_bits=1024, **OLD[version])
    async with SmtpServer(tls=server_tls) as server:
        outcome = (await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")]))["a"]
        assert (outcome.result, outcome.tls.split()[0]) == (Result.DELIVERED, version)
        assert [caught.tls for caught in server.caught] == [True]
        assert len(server.talks) == 1

        strict = [to(server, tls=TlsPolicy.REQUIRED, tls_context=client_tls)]
        if version != "TLSv1.3":  # DANE says of a certificate that it is the right one, however short its key
            any_key = TlsaRecord(3, 1, 0, b"")
            for asked in (Security(Kind.DANE_UNUSABLE), Security(Kind.DANE, (any_key,), ("mx0.test",))):
                hops = (replace(hop(server, "mx0.test"), security=asked),)
                strict.append(replace(to(server, tls=TlsPolicy.OPPORTUNISTIC), hops=hops))
        for destination in strict:
            outcome = (await deliver(destination, [mail("b")]))["b"]
            assert (outcome.result, outcome.reply.enhanced) == (Result.DEFERRED, "4.7.5")
        assert len(server.caught) == 1


async def test_a_later_mail_says_of_which_connection_it_was() -> None:
    async with SmtpServer({"greeting": Step("220-mx7.peer.test ESMTP\r\n220 hello")}) as server:
        run = await deliver(to(server), [mail("a"), mail("b"), mail("c")])
        assert len(server.talks) == 1
    greeted = run["a"].conversation[0]
    assert greeted.heard == "220-mx7.peer.test ESMTP"
    at = datetime.fromtimestamp(greeted.at, UTC).isoformat(timespec="seconds")
    for name in ("b", "c"):
        first, second = run[name].conversation[:2]
        assert first.said == f"[on a connection opened at {at}: 220 mx7.peer.test ESMTP]"
        assert (second.said or "").startswith("MAIL FROM:")


async def test_none_does_not_ask() -> None:
    async with SmtpServer(tls=certificate()[0]) as server:
        run = await deliver(to(server), [mail("a")])
        assert run["a"].tls is None
        assert server.commands("STARTTLS") == []


async def test_opportunistic_goes_on_in_clear() -> None:
    """Not offered; or refused: on the same connection."""
    async with SmtpServer() as server:
        assert (await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")]))["a"].result is Result.DELIVERED
    async with SmtpServer({"starttls": Step("454 4.7.0 not now")}, tls=certificate()[0]) as server:
        run = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        assert len(server.talks) == 1


OPPORTUNISTIC = TlsPolicy.OPPORTUNISTIC
ALERT = Step("\x15\x03\x03\x00\x02\x02\x28", cut=True)
"""Fatal, handshake_failure (RFC 5246 §7.2): the two have no cipher in common."""


@pytest.mark.parametrize("step", [ALERT, Step("500 5.5.2 what?")], ids=["alert", "no TLS"])
async def test_tls_that_is_of_no_use_is_not_asked_for_again_for_a_while(step: Step) -> None:
    """The peer has said so, within the handshake."""
    async with SmtpServer({"handshake": step}, tls=certificate()[0]) as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        for name, talks in (("a", 2), ("b", 3)):
            outcome = (await deliver(to(server, tls=OPPORTUNISTIC), [mail(name)], pool=pool))[name]
            assert (outcome.result, outcome.tls) == (Result.DELIVERED, None)
            await pool.close()
            assert len(server.talks) == talks
        assert len(server.commands("STARTTLS")) == 1


@pytest.mark.parametrize(
    "step",
    [SILENT, CUT, Step(cut=True, reset=True)],
    ids=["silent", "closed", "reset"],
)
async def test_tls_that_nobody_answered_for_is_asked_for_with_the_next_connection(step: Step) -> None:
    """Silence and a cut prove nothing of the peer: this connection goes in clear, the next is tried again."""
    async with SmtpServer({"handshake": step}, tls=certificate()[0]) as server:
        pool = Pool("ours.test", timeouts=replace(PATIENT, tls=0.3))
        outcome = (await deliver(to(server, tls=OPPORTUNISTIC), [mail("a")], pool=pool))["a"]
        assert (outcome.result, outcome.tls) == (Result.DELIVERED, None)
        await pool.close()
        server.script, pool.timeouts = {}, PATIENT
        outcome = (await deliver(to(server, tls=OPPORTUNISTIC), [mail("b")], pool=pool))["b"]
        assert (outcome.result, outcome.tls is None) == (Result.DELIVERED, False)
        await pool.close()
        assert len(server.talks) == 3


def _tls_first(talk: Talk) -> Step | None:
    return None if talk.tls else Step("530 5.7.0 Must issue a STARTTLS command first")


@pytest.mark.parametrize("extensions", [("PIPELINING",), ("PIPELINING", "CHUNKING"), ()])
async def test_a_peer_that_wants_tls_gets_it_with_the_next_connection(extensions: tuple[str, ...]) -> None:
    """RFC 3207 §4. Its TLS was of no use a while ago, and is by now: one mail waits, those behind it go under TLS."""
    async with SmtpServer({"handshake": ALERT}, extensions=extensions, tls=certificate()[0]) as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        assert (await deliver(to(server, tls=OPPORTUNISTIC), [mail("a")], pool=pool))["a"].tls is None
        await pool.close()
        server.script = {"mail": _tls_first}
        run = await deliver(to(server, tls=OPPORTUNISTIC), [mail("b"), mail("c"), mail("d")], pool=pool)
        await pool.close()
    assert (run["b"].result, run["b"].rule, run["b"].tls) == (Result.DEFERRED, "tls-demanded", None)
    assert str(run["b"].reply) == "530 5.7.0 Must issue a STARTTLS command first"
    assert [run[name].result for name in "cd"] == [Result.DELIVERED] * 2
    assert [caught.tls for caught in server.caught] == [False, True, True]


async def test_while_its_tls_is_of_no_use_mail_for_a_peer_that_wants_it_waits() -> None:
    """Also behind a STARTTLS that is refused for the moment. Not a connection for each: after three the next host is asked."""
    mails = [mail(f"m{n}") for n in range(10)]
    for script in ({"handshake": ALERT}, {"starttls": Step("454 4.7.0 not now")}):
        async with SmtpServer({"mail": _tls_first, **script}, tls=certificate()[0]) as server:
            run = await deliver(to(server, tls=OPPORTUNISTIC), mails)
            assert {(each.result, each.rule) for each in run.outcomes.values()} == {(Result.DEFERRED, "tls-demanded")}
            assert len(server.commands("MAIL")) == 3
            assert run["m9"].reply.text == "the peer takes mail under TLS only"
            async with SmtpServer() as other:
                run = await deliver(to(server, other, tls=OPPORTUNISTIC), mails)
                assert len(other.caught) == 7


async def test_where_tls_is_off_a_peer_that_wants_it_is_asked_once_and_the_words_say_what_to_set() -> None:
    """It cannot help to ask again: the operator has to mend it, and meanwhile other mail and other hosts are spared."""
    mails = [mail(f"m{n}") for n in range(10)]
    async with SmtpServer({"mail": _tls_first}, extensions=(), tls=certificate()[0]) as server:
        run = await deliver(to(server, tls=TlsPolicy.NONE), mails)
        assert {(each.result, each.rule) for each in run.outcomes.values()} == {(Result.DEFERRED, "tls-off")}
        assert len(server.commands("MAIL")) == 1 and server.commands("STARTTLS") == []
    assert all("POSTROOM_OUTBOUND__SMARTHOST_TLS" in each.reply.text for each in run.outcomes.values())
    assert "(530 5.7.0 Must issue a STARTTLS command first)" in run["m0"].reply.text
    assert "530" not in run["m9"].reply.text


@pytest.mark.parametrize("tls", [True, False])
async def test_530_for_want_of_anything_else_is_for_good(tls: bool) -> None:
    """RFC 4954 §6: a login. Under TLS, or where none is offered, another try would hear the same."""
    script = {"mail": Step("530 5.7.0 Authentication required")}
    async with SmtpServer(script, tls=certificate()[0] if tls else None) as server:
        outcome = (await deliver(to(server, tls=OPPORTUNISTIC), [mail("a")]))["a"]
    assert (outcome.result, outcome.rule, outcome.tls is not None) == (Result.BOUNCED, None, tls)


async def test_required_verifies() -> None:
    server_tls, client_tls = certificate("mx0.test")
    async with SmtpServer(tls=server_tls) as server:
        run = await deliver(to(server, tls=TlsPolicy.REQUIRED, tls_context=client_tls), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        assert server.caught[0].tls

        for changes in ({"tls_context": None}, {"hops": (Hop("other.test", ("127.0.0.1",), server.port),)}):
            destination = replace(to(server, tls=TlsPolicy.REQUIRED, tls_context=client_tls), **changes)
            outcome = (await deliver(destination, [mail("b")]))["b"]
            assert outcome.result is Result.DEFERRED
            assert outcome.rule == "tls-failed"
            assert "certificate" in outcome.reply.text or "mismatch" in outcome.reply.text.lower()
        assert len(server.caught) == 1


@pytest.mark.parametrize(
    ("script", "rule"),
    [
        ({}, "tls-not-offered"),
        ({"starttls": Step("454 4.7.0 no")}, "tls-failed"),
        ({"starttls": Step("220 go\r\n", cut=True)}, "tls-failed"),
    ],
)
async def test_required_never_falls_back(script: dict, rule: str) -> None:
    extensions = ("PIPELINING",) if rule == "tls-not-offered" else ("PIPELINING", "STARTTLS")
    async with SmtpServer(script, extensions=extensions) as server:
        outcome = (await deliver(to(server, tls=TlsPolicy.REQUIRED), [mail("a")]))["a"]
        assert outcome.result is Result.DEFERRED
        assert outcome.rule == rule
        assert server.commands("MAIL") == []


async def test_next_hop_when_tls_fails() -> None:
    server_tls, client_tls = certificate("mx1.test")
    async with SmtpServer() as bare, SmtpServer(tls=server_tls) as good:
        run = await deliver(to(bare, good, tls=TlsPolicy.REQUIRED, tls_context=client_tls), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        assert run["a"].mx_host == "mx1.test"


@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED])
@pytest.mark.parametrize("injected", ["250-mx0.test\r\n250 AUTH PLAIN\r\n", "250 ok\r\n", "25", "\r\n"])
async def test_a4_response_injection(policy: TlsPolicy, injected: str) -> None:
    """A4: what comes in clear behind the 220 is not taken for words under TLS; the connection is closed."""
    server_tls, client_tls = certificate("mx0.test")
    step = Step("220 go\r\n" + injected + ("\n" if injected == "25" else ""))
    async with SmtpServer({"starttls": step}, tls=server_tls) as server:
        destination = to(server, tls=policy, tls_context=client_tls, credentials=SECRET)
        outcome = (await deliver(destination, [mail("a")]))["a"]
        assert outcome.result is Result.DEFERRED
        assert outcome.rule == "starttls-injection"
        assert server.caught == []
        assert server.commands("AUTH") == []
        assert len(server.talks) == 1


async def test_a4_what_was_offered_in_clear_is_forgotten() -> None:
    """RFC 3207 §4.2: PIPELINING and AUTH count only when offered again under TLS."""
    server_tls, _ = certificate("mx0.test")
    server = SmtpServer(
        {"ehlo": [Step("250-x\r\n250-PIPELINING\r\n250-AUTH PLAIN\r\n250-SIZE\r\n250 STARTTLS"), Step("250 x")]},
        tls=server_tls,
    )
    async with server:
        run = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        assert server.commands("MAIL") == ["MAIL FROM:<bounce+a@ours.test>"]
        run = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC, credentials=SECRET), [mail("a")])
        assert run["a"].rule == "auth-not-offered"


@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN"])
async def test_auth(mechanisms: str) -> None:
    server_tls, _ = certificate("mx0.test")
    prompts = [Step("334 VXNlcm5hbWU6"), Step("334 UGFzc3dvcmQ6"), Step("235 2.7.0 welcome")]
    script = (
        {} if "PLAIN" in mechanisms else {"auth": list(prompts), "dxnlcg==": prompts[1], "cgfzcyb3b3jk": prompts[2]}
    )
    async with SmtpServer(script, extensions=("PIPELINING", f"AUTH {mechanisms}"), tls=server_tls) as server:
        run = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC, credentials=SECRET), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        spoken = " ".join(server.talks[0].commands)
        if "PLAIN" in mechanisms:
            assert "AUTH PLAIN " + base64.b64encode(b"\0user\0pass word").decode() in spoken
        else:
            assert base64.b64encode(b"pass word").decode() in spoken
        kept = repr(run["a"].conversation)
        for secret in (b"pass word", b"\0user\0pass word"):
            assert base64.b64encode(secret).decode() not in kept
        assert "pass word" not in repr(SECRET)


async def test_auth_refused_defers() -> None:
    async with SmtpServer({"auth": Step("535 5.7.8 wrong")}, extensions=("AUTH PLAIN",)) as server:
        outcome = (await deliver(to(server, credentials=SECRET), [mail("a")]))["a"]  # loopback: clear text is allowed
        assert outcome.result is Result.DEFERRED, "the operator mends it while the mail waits"
        assert outcome.rule == "auth-refused"
        assert outcome.reply.code == 535
        assert server.commands("MAIL") == []


async def test_no_address() -> None:
    for destination in (
        Destination("x", ()),
        Destination("x", (Hop("six.test", ("::1",)),), source_ip="127.0.0.1"),
    ):
        outcome = (await deliver(destination, [mail("a")]))["a"]
        assert outcome.result is Result.DEFERRED
        assert outcome.rule == "connect-failed"


async def test_what_nobody_foresaw_is_a_failure_of_that_address(request: pytest.FixtureRequest) -> None:
    """A label of more than 63 octets, which the TLS library cannot ask for: the mail has its outcome, or goes to the next host."""
    seen: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    request.addfinalizer(lambda: loop.set_exception_handler(before))
    async with SmtpServer(tls=certificate()[0]) as server:
        bad = Hop("x" * 80 + ".test", ("127.0.0.1",), server.port)
        destination = replace(to(server, tls=TlsPolicy.OPPORTUNISTIC), hops=(bad,))
        run = await deliver(destination, [mail("a"), mail("b")])
        for outcome in run.outcomes.values():
            assert (outcome.result, outcome.rule) == (Result.DEFERRED, "internal-error")
            assert (outcome.mx_host, outcome.reply.enhanced) == (bad.host, "4.3.0")
        told = [each["exception"] for each in seen if f"to {bad.host} failed" in str(each["message"])]
        assert [type(each) for each in told] == [UnicodeError], "others may leave something for the loop to tell, too"
        assert len(server.talks) == 1
        good = replace(destination, hops=(bad, Hop("mx1.test", ("127.0.0.1",), server.port)))
        assert (await deliver(good, [mail("a")]))["a"].mx_host == "mx1.test"


async def test_source_address() -> None:
    async with SmtpServer() as server:
        run = await deliver(to(server, source_ip="127.0.0.7"), [mail("a")])
        assert server.talks[0].peer[0] == "127.0.0.7"
        assert run["a"].source_ip == "127.0.0.7"


async def test_ipv6() -> None:
    async with SmtpServer() as server:
        try:
            six = await asyncio.start_server(server._serve, "::1", 0)
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        port = six.sockets[0].getsockname()[1]
        run = await deliver(Destination("x", (Hop("six.test", ("::1",), port),)), [mail("a")])
        assert run["a"].result is Result.DELIVERED
        assert run["a"].mx_ip == "::1"
        six.close()
        await six.wait_closed()


def test_ehlo_name_is_checked() -> None:
    for helo in ("", "a b", "a\r\nMAIL", "caf\u00e9.test"):
        with pytest.raises(ValueError, match="EHLO name"):
            Pool(helo)
