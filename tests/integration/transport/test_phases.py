"""Each phase × what may happen there × pipelined or not: the outcome, whether the next hop is tried, what was caught."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.smtp_server import CUT, SILENT, SmtpServer, Step
from mailcore.smtp.outcome import Result

from .harness import PATIENT, deliver, mail, to

EVENTS = {
    "4xx": Step("451 4.7.1 try again later"),
    "5xx": Step("550 5.1.1 no such user"),
    "421": Step("421 4.3.2 closing\r\n", cut=True),
    "cut": CUT,
    "half a line": Step("250 o", cut=True),
    "garbage": Step("\x00\xff HTTP/1.1 400 Bad Request"),
    "two codes": Step("250-yes\r\n550 no"),
    "long line": Step("250 " + "x" * 5000),
    "many lines": Step("250-x\r\n" * 150 + "250 x"),
    "silent": SILENT,
    "drip": Step("250 it never ends " + "." * 400, drip=0.02),
}
BROKEN = ["cut", "half a line", "garbage", "two codes", "long line", "many lines", "silent", "drip"]
SHORT = {"greeting": "greeting", "ehlo": "ehlo", "mail": "mail", "rcpt": "rcpt", "data": "data", "dot": "dot"}
WAYS = {
    "pipelined": ("PIPELINING", "SIZE"),
    "lock-step": ("SIZE",),
    "bare": (),
    "chunks": ("PIPELINING", "SIZE", "CHUNKING"),
    "chunks in lock-step": ("CHUNKING",),
}
PIPELINING = pytest.mark.parametrize("extensions", list(WAYS.values()), ids=list(WAYS))


def phases(*names: str):
    """Each way × each phase that it has: with BDAT there is no DATA."""
    cases = [(way, name) for name in names for way in WAYS if name != "data" or "CHUNKING" not in WAYS[way]]
    return pytest.mark.parametrize(
        ("extensions", "phase"), [(WAYS[way], name) for way, name in cases], ids=[f"{n}-{w}" for w, n in cases]
    )


def timeouts(phase: str, event: str):
    return replace(PATIENT, **{SHORT[phase]: 0.25}) if event in ("silent", "drip") else PATIENT


@PIPELINING
@pytest.mark.parametrize("event", list(EVENTS))
@pytest.mark.parametrize("phase", ["greeting", "ehlo"])
async def test_a_host_that_does_not_talk_to_us(phase: str, event: str, extensions: tuple[str, ...]) -> None:
    async with SmtpServer({phase: EVENTS[event]}, extensions=extensions) as bad, SmtpServer() as good:
        alone = await deliver(to(bad), [mail("a"), mail("b"), mail("c")], timeouts=timeouts(phase, event))
        assert bad.caught == []
        assert len(bad.talks) == 1, "one connection for all mails that wait"
        for outcome in alone.outcomes.values():
            assert outcome.result is Result.DEFERRED, "also 5yz: it is not about the recipient"
            assert not outcome.dot_sent
            assert outcome.mx_host == "mx0.test"
            assert outcome.mx_ip == "127.0.0.1"
            if event in ("4xx", "5xx", "421"):
                assert outcome.reply.code == int(EVENTS[event].text[:3])

        both = await deliver(to(bad, good), [mail("a"), mail("b")], timeouts=timeouts(phase, event))
        assert {o.result for o in both.outcomes.values()} == {Result.DELIVERED}
        assert both["a"].mx_host == "mx1.test"
        assert sorted(good.recipients) == ["a@peer.test", "b@peer.test"]


@phases("mail", "rcpt", "data")
@pytest.mark.parametrize(
    ("event", "result"), [("4xx", Result.DEFERRED), ("5xx", Result.BOUNCED), ("421", Result.DEFERRED)]
)
async def test_refused_before_the_dot(phase: str, event: str, result: Result, extensions: tuple[str, ...]) -> None:
    async with SmtpServer({phase: EVENTS[event]}, extensions=extensions) as server, SmtpServer() as other:
        outcome = (await deliver(to(server, other), [mail("a")]))["a"]
        assert outcome.result is result
        assert str(outcome.reply) == EVENTS[event].text.strip()
        assert not outcome.dot_sent
        assert server.caught == []
        assert other.talks == [], "a decision about the mail is not asked for twice"
        heard = [line.heard for line in outcome.conversation if line.heard]
        assert EVENTS[event].text.strip() in heard
        assert heard[0] == "220 fake.test ESMTP"


@phases("mail", "rcpt", "data")
@pytest.mark.parametrize("event", BROKEN)
async def test_broken_before_the_dot(phase: str, event: str, extensions: tuple[str, ...]) -> None:
    """R10: nothing of the content has left, so the next hop gets it; with no other hop it waits."""
    async with SmtpServer({phase: EVENTS[event]}, extensions=extensions) as bad, SmtpServer() as good:
        alone = (await deliver(to(bad), [mail("a")], timeouts=timeouts(phase, event)))["a"]
        assert alone.result is Result.DEFERRED
        assert not alone.dot_sent
        assert alone.rule in ("connection-lost", "garbage-reply", "timeout", "unexpected-reply")
        assert any(line.said and line.said.startswith("MAIL FROM:") for line in alone.conversation)

        both = (await deliver(to(bad, good), [mail("a")], timeouts=timeouts(phase, event)))["a"]
        assert both.result is Result.DELIVERED
        assert both.mx_host == "mx1.test"
        assert bad.caught == []
        assert good.recipients == ["a@peer.test"]


@PIPELINING
@pytest.mark.parametrize(
    ("event", "result"), [("4xx", Result.DEFERRED), ("5xx", Result.BOUNCED), ("421", Result.DEFERRED)]
)
async def test_refused_after_the_dot(event: str, result: Result, extensions: tuple[str, ...]) -> None:
    async with SmtpServer({"dot": EVENTS[event]}, extensions=extensions) as server, SmtpServer() as other:
        outcome = (await deliver(to(server, other), [mail("a")]))["a"]
        assert outcome.result is result
        assert str(outcome.reply) == EVENTS[event].text.strip()
        assert outcome.dot_sent
        assert outcome.rule is None
        assert other.talks == []


@PIPELINING
@pytest.mark.parametrize("event", BROKEN)
async def test_reply_lost_after_the_dot(event: str, extensions: tuple[str, ...]) -> None:
    """The peer may hold a copy: told apart, and no other hop is tried."""
    async with SmtpServer({"dot": EVENTS[event]}, extensions=extensions) as server, SmtpServer() as other:
        outcome = (await deliver(to(server, other), [mail("a")], timeouts=timeouts("dot", event)))["a"]
        assert outcome.result is Result.DEFERRED
        assert outcome.dot_sent
        assert outcome.rule == ("reply-lost" if event in ("cut", "half a line", "silent", "drip") else "garbage-reply")
        assert server.recipients == ["a@peer.test"]
        assert other.talks == []


@phases("mail", "rcpt", "data", "dot")
@pytest.mark.parametrize("event", ["4xx", "5xx", "421", *BROKEN])
async def test_the_others_are_not_harmed(phase: str, event: str, extensions: tuple[str, ...]) -> None:
    """One of five mails runs into it; the four others are delivered once, each, over one connection at a time."""

    def script(talk):
        name = talk.recipient if phase != "mail" else talk.commands[-1]
        return EVENTS[event] if "c@peer" in name or "+c@" in name else None

    async with SmtpServer({phase: script}, extensions=extensions) as server:
        run = await deliver(to(server), [mail(n) for n in "abcde"], timeouts=timeouts(phase, event))
        assert {n: o.result for n, o in run.outcomes.items() if n != "c"} == dict.fromkeys("abde", Result.DELIVERED)
        assert run["c"].result is (Result.BOUNCED if event == "5xx" else Result.DEFERRED)
        kept = [r for r in server.recipients if r != "c@peer.test"]
        assert sorted(kept) == [f"{n}@peer.test" for n in "abde"]
        if event != "drip":  # there the fake goes on writing for a moment to a connection that is gone
            assert server.most_open == 1


@PIPELINING
async def test_a_slow_peer_is_waited_for(extensions: tuple[str, ...]) -> None:
    """R11: octet by octet is fine as long as the reply is whole in time."""
    drip = Step("250 2.0.0 kept", drip=0.005)
    async with SmtpServer(
        {"greeting": Step("220 hello", drip=0.005), "rcpt": drip, "dot": drip}, extensions=extensions
    ) as server:
        run = await deliver(to(server), [mail("a"), mail("b")])
        assert [o.result for o in run.outcomes.values()] == [Result.DELIVERED] * 2
        assert server.recipients == ["a@peer.test", "b@peer.test"]


async def test_helo_where_ehlo_is_not_known() -> None:
    for code in (500, 502):
        async with SmtpServer({"ehlo": Step(f"{code} 5.5.1 what?")}) as server:
            run = await deliver(to(server), [mail("a"), mail("b")])
            assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
            assert server.talks[0].commands[:2] == ["EHLO ours.test", "HELO ours.test"]
            assert server.commands("MAIL")[0] == "MAIL FROM:<bounce+a@ours.test>", "no parameter without EHLO"


async def test_reply_texts_are_fit_for_any_store() -> None:
    async with SmtpServer({"rcpt": Step("550-5.1.1 caf\u00e9 \x00\x1b[31m\r\n550 5.1.1 \udcff done")}) as server:
        outcome = (await deliver(to(server), [mail("a")]))["a"]
        assert outcome.reply.enhanced == "5.1.1"
        assert outcome.reply.text == "caf\u00e9 ??[31m\n\ufffd done"
        words = " ".join(line.heard or "" for line in outcome.conversation)
        assert words.isprintable()
        assert "550-5.1.1 caf" in words


async def test_lines_that_end_with_lf_only() -> None:
    async with SmtpServer(
        {"ehlo": Step("250-fake.test\n250-PIPELINING\n250 SIZE\n"), "dot": Step("250 kept\n")}
    ) as server:
        run = await deliver(to(server), [mail("a"), mail("b")])
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
