"""The exchange itself: grouping, refused recipients, the caller's leave, slow dots, large content."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from mailcore.smtp.outcome import Result
from mailcore.transport import Mail, MailQueue, Pool
from suites import suite

from .harness import CONTENT, PATIENT, deliver, mail, to, until, yes

PIPELINING = pytest.mark.parametrize(
    "extensions",
    [("PIPELINING",), (), ("PIPELINING", "CHUNKING"), ("CHUNKING",)],
    ids=["pipelined", "lock-step", "chunks", "chunks in lock-step"],
)


async def test_content_travels_with_the_next_envelope() -> None:
    """RFC 2920 §3.1: the peer holds its reply to the first dot and has the next DATA nonetheless."""
    hold = asyncio.Event()
    async with SmtpServer({"dot": [Step("250 kept", wait=hold), Step("250 kept")]}) as server:
        delivery = asyncio.ensure_future(deliver(to(server), [mail("a"), mail("b")]))
        await until(lambda: server.caught)
        talk = server.talks[0]
        await until(lambda: b"RCPT TO:<b@peer.test>\r\nDATA\r\n" in bytes(talk.reader._buffer))
        hold.set()
        run = await delivery
        assert [o.result for o in run.outcomes.values()] == [Result.DELIVERED] * 2
        assert [c.content for c in server.caught] == [CONTENT, CONTENT]


async def test_without_pipelining_one_command_at_a_time() -> None:
    hold = asyncio.Event()
    async with SmtpServer({"mail": Step("250 ok", wait=hold)}, extensions=("SIZE",)) as server:
        delivery = asyncio.ensure_future(deliver(to(server), [mail("a")]))
        await until(lambda: server.commands("MAIL"))
        await asyncio.sleep(0.05)
        assert bytes(server.talks[0].reader._buffer) == b""
        hold.set()
        assert (await delivery)["a"].result is Result.DELIVERED


async def test_recipient_refused_and_data_taken() -> None:
    """RFC 2920 §3.1: a lone dot ends it; whatever the peer says to that, nobody got the mail."""
    for answer in ("250 2.0.0 kept", "554 5.5.1 no valid recipients"):
        script = {
            "rcpt": lambda talk: Step("550 5.1.1 unknown") if talk.recipient.startswith("b@") else None,
            "data": Step("354 anyway"),
            "dot": lambda talk, answer=answer: Step(answer) if talk.recipient.startswith("b@") else None,
        }
        async with SmtpServer(script) as server:
            run = await deliver(to(server), [mail("a"), mail("b"), mail("c")])
            assert run["b"].result is Result.BOUNCED
            assert str(run["b"].reply) == "550 5.1.1 unknown"
            assert not run["b"].dot_sent
            assert run["a"].result is run["c"].result is Result.DELIVERED
            assert [c.wire for c in server.caught] == [CONTENT, CONTENT]
            assert len(server.talks) == 1


@PIPELINING
async def test_refusals_leave_the_session_in_step(extensions: tuple[str, ...]) -> None:
    """A refused recipient leaves a transaction open: RSET comes before the next MAIL (the fake says 503 otherwise)."""
    refused = {
        "mail": lambda talk: Step("451 later") if "+m" in talk.commands[-1] else None,
        "rcpt": lambda talk: Step("550 no") if talk.recipient.startswith("r") else None,
        "data": lambda talk: Step("451 not now") if talk.recipient.startswith("d") and talk.rcpt_to else None,
        "dot": lambda talk: Step("554 5.7.1 spam") if talk.recipient.startswith("x") else None,
    }
    names = ["a1", "m1", "m2", "r1", "r2", "d1", "a2", "d2", "x1", "r3", "a3", "x2", "x3", "a4"]
    if "CHUNKING" in extensions:
        names = [name for name in names if name[0] != "d"]  # there is no DATA to refuse
    async with SmtpServer(refused, extensions=extensions) as server:
        run = await deliver(to(server), [mail(n) for n in names])
        want = {
            "a": Result.DELIVERED,
            "m": Result.DEFERRED,
            "r": Result.BOUNCED,
            "d": Result.DEFERRED,
            "x": Result.BOUNCED,
        }
        assert {n: o.result for n, o in run.outcomes.items()} == {n: want[n[0]] for n in names}
        assert run.order == names
        assert len(server.talks) == 1
        assert server.commands("RSET"), "a transaction was ended"


@PIPELINING
@pytest.mark.parametrize("rset", ["250 ok", "500 what?"])
async def test_nobody_gets_the_mail_behind_a_refused_one(rset: str, extensions: tuple[str, ...]) -> None:
    """A server that refuses MAIL and takes RCPT all the same holds on to that recipient, until a RSET that it says yes to."""
    script = {
        "mail": lambda talk: Step("503 5.5.1 not now") if "+a@" in talk.commands[-1] else None,
        "rcpt": lambda talk: Step("250 ok") if talk.recipient.startswith("a@") else None,
        "rset": Step(rset),
    }
    async with SmtpServer(script, extensions=extensions) as server:
        run = await deliver(to(server), [mail(n) for n in "abc"])
        assert run["a"].result is Result.BOUNCED
        assert {caught.rcpt_to[0] for caught in server.caught} == {"b@peer.test", "c@peer.test"}
        assert {len(caught.rcpt_to) for caught in server.caught} == {1}


async def test_a_refusal_counts_though_the_rest_is_lost() -> None:
    async with SmtpServer({"rcpt": Step("550 5.1.1 unknown\r\n", cut=True)}) as server:
        outcome = (await deliver(to(server), [mail("a")]))["a"]
        assert outcome.result is Result.BOUNCED
        assert outcome.reply.enhanced == "5.1.1"


@PIPELINING
@pytest.mark.parametrize("answer", ["no", "raises", "late"])
async def test_lease_lost(answer: str, extensions: tuple[str, ...]) -> None:
    """No leave, no dot: the connection is closed after the 354, and the peer has kept nothing."""

    late = asyncio.Event()

    async def before_dot(of: Mail) -> bool:
        if of.key != "b":
            return True
        if answer == "raises":
            raise RuntimeError("database gone")
        if answer == "late":
            await late.wait()
        return False

    timeouts = replace(PATIENT, block=0.2) if answer == "late" else PATIENT
    async with SmtpServer(extensions=extensions) as server, SmtpServer() as other:
        run = await deliver(to(server, other), [mail(n) for n in "abc"], before_dot=before_dot, timeouts=timeouts)
        assert run["b"].result is Result.DEFERRED
        assert run["b"].rule == "lease-lost"
        assert not run["b"].dot_sent
        assert run["a"].result is run["c"].result is Result.DELIVERED
        assert server.recipients == ["a@peer.test", "c@peer.test"]
        assert other.talks == [], "our fault, not the hop's"
    late.set()


async def test_leave_is_asked_while_the_peer_thinks() -> None:
    hold = asyncio.Event()
    async with SmtpServer({"data": Step("354 go", wait=hold)}) as server:
        asked = asyncio.Event()

        async def before_dot(_: Mail) -> bool:
            asked.set()
            return True

        delivery = asyncio.ensure_future(deliver(to(server), [mail("a")], before_dot=before_dot))
        await asyncio.wait_for(asked.wait(), 90)
        assert not server.caught
        hold.set()
        assert (await delivery)["a"].result is Result.DELIVERED


async def test_old_leave_is_asked_for_again() -> None:
    """The reply to one dot may take minutes; the leave for the mail behind it is then worth nothing."""
    hold = asyncio.Event()
    lease = True

    async def before_dot(_: Mail) -> bool:
        return lease

    async with SmtpServer({"dot": [Step("250 kept", wait=hold), Step("250 kept")]}) as server:
        timeouts = replace(PATIENT, gate_age=0.05)
        mails = [mail("a"), mail("b")]
        delivery = asyncio.ensure_future(deliver(to(server), mails, before_dot=before_dot, timeouts=timeouts))
        await until(lambda: server.caught)
        lease = False
        await asyncio.sleep(0.1)
        hold.set()
        run = await delivery
        assert run["a"].result is Result.DELIVERED
        assert run["b"].rule == "lease-lost"
        assert server.recipients == ["a@peer.test"]


async def test_nobody_waits_behind_a_slow_dot() -> None:
    """R11: the mail whose envelope is already out goes by another connection; the slow reply is still read."""
    hold = asyncio.Event()

    def dot(talk: Talk) -> Step | None:
        return Step("250 at last", wait=hold) if talk.recipient.startswith("slow") else None

    async with SmtpServer({"dot": dot}) as server:
        mails = [mail("slow"), *(mail(f"m{n}") for n in range(5))]
        timeouts = replace(PATIENT, patience=0.1)
        delivery = asyncio.ensure_future(deliver(to(server), mails, timeouts=timeouts, connections=2))
        await until(lambda: len(server.caught) == 6)
        assert not delivery.done()
        hold.set()
        run = await delivery
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert sorted(server.recipients) == sorted(m.rcpt_to for m in mails), "each once"


async def test_nobody_waits_behind_a_slow_envelope() -> None:
    """R11: the others go by another connection."""
    hold = asyncio.Event()

    def at_mail(talk: Talk) -> Step | None:
        return Step("250 at last", wait=hold) if "+slow@" in talk.commands[-1] else None

    async with SmtpServer({"mail": at_mail}) as server:
        mails = [mail("m0"), mail("slow"), *(mail(f"m{n}") for n in range(1, 9))]
        timeouts = replace(PATIENT, patience=0.1)
        delivery = asyncio.ensure_future(deliver(to(server), mails, timeouts=timeouts, connections=2))
        await until(lambda: len(server.caught) == 9)
        assert not delivery.done()
        hold.set()
        run = await delivery
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert sorted(server.recipients) == sorted(m.rcpt_to for m in mails), "each once"


async def test_nothing_behind_a_cut_session_is_judged_by_it() -> None:
    """MAIL was refused and DATA taken: the session ends there, and no word of it is about the mail behind."""

    def at_mail(talk: Talk) -> Step | None:
        return Step("550 5.7.1 not from you") if "+bad@" in talk.commands[-1] else None

    async with SmtpServer({"mail": at_mail, "rcpt": Step("250 ok"), "data": Step("354 go")}) as server:
        mails = [mail("m0"), mail("bad"), *(mail(f"m{n}") for n in range(1, 6))]
        run = await deliver(to(server), mails)
        assert run["bad"].result is Result.BOUNCED
        assert {o.result for name, o in run.outcomes.items() if name != "bad"} == {Result.DELIVERED}
        assert sorted(server.recipients) == sorted(m.rcpt_to for m in mails if m.key != "bad")


async def test_a_reply_ahead_of_its_command_is_no_delivery() -> None:
    """A 250 that comes with the 354 would stand for a mail that the peer has not seen."""
    async with SmtpServer({"data": Step("354 go\r\n250 2.0.0 kept")}) as server:
        outcome = (await deliver(to(server), [mail("a")]))["a"]
        assert outcome.result is Result.DEFERRED
        assert not outcome.dot_sent
        assert server.caught == []


async def test_success_where_354_belongs() -> None:
    for extensions in (("PIPELINING",), ()):
        async with SmtpServer({"data": Step("250 ok")}, extensions=extensions) as server:
            outcome = (await deliver(to(server), [mail("a")]))["a"]
            assert outcome.result is Result.DEFERRED
            assert outcome.rule == "unexpected-reply"
            assert server.caught == []


# ---- content

SMUGGLED = b"MAIL FROM:<evil@peer.test>\r\nRCPT TO:<v@peer.test>\r\nDATA\r\nSubject: two\r\n\r\nsmuggled\r\n.\r\n"


@PIPELINING
async def test_a2_smuggling_out(extensions: tuple[str, ...]) -> None:
    """What may end the content at some peer either leaves stuffed, or not at all."""
    cases = json.loads((suite("smtp-smuggling") / "eod_sequences.json").read_text())
    kinds = ("must_not_end_data", "must_not_end_data_but_must_be_kept_unstuffed", "ends_data")
    sequences = [bytes.fromhex(case["hex"]) for kind in kinds for case in cases[kind]]
    assert len(sequences) == 16
    contents = [b"Subject: one\r\n\r\nbody" + sequence + SMUGGLED for sequence in sequences]
    contents += [sequence + SMUGGLED for sequence in sequences]
    async with SmtpServer(extensions=extensions) as server:
        run = await deliver(to(server), [mail(f"n{n}", content) for n, content in enumerate(contents)])
        sent = 0
        for n, content in enumerate(contents):
            outcome = run[f"n{n}"]
            bare = content.replace(b"\r\n", b"")
            if b"\r" in bare or b"\n" in bare:
                assert outcome.result is Result.FAILED
                assert outcome.rule == "bare-line-ending"
                assert not any(line.said for line in outcome.conversation if line.said and line.said.startswith("MAIL"))
            else:
                assert outcome.result is Result.DELIVERED
                caught = next(c for c in server.caught if c.rcpt_to == [f"n{n}@peer.test"])
                assert caught.content == content
                assert caught.chunks or b"\r\n.\r\n" not in b"\r\n" + caught.wire
                sent += 1
        assert len(server.caught) == sent
        assert sent >= 4
        assert "v@peer.test" not in server.recipients


@PIPELINING
@pytest.mark.parametrize(
    "address",
    [
        "a@b\r\nRCPT TO:<evil@x.test",
        "a b@peer.test",
        "a>b@peer.test",
        "a\0@peer.test",
        "nobody",
        "",
        "a@b\u2028c",
        "x" * 400 + "@y",
    ],
)
async def test_addresses_that_would_break_the_line(address: str, extensions: tuple[str, ...]) -> None:
    async with SmtpServer(extensions=extensions) as server:
        mails = [mail("a"), Mail("", address, CONTENT, "to"), mail("b")]
        if address:  # an empty return path is a fine one
            mails.append(Mail(address, "c@peer.test", CONTENT, "from"))
        run = await deliver(to(server), mails)
        for key in {"to", "from"} & set(run.outcomes):
            assert run[key].result is Result.FAILED
            assert run[key].rule == "bad-address"
        assert server.recipients == ["a@peer.test", "b@peer.test"]


async def test_good_addresses() -> None:
    mails = [
        Mail("", '"quoted local \\" part"@peer.test', CONTENT, "q"),
        Mail("a@ours.test", "b@[192.0.2.1]", CONTENT, "l"),
        Mail("a@ours.test", "jos\u00e9@caf\u00e9.test", CONTENT, "u"),
    ]
    async with SmtpServer(extensions=("PIPELINING", "SMTPUTF8", "8BITMIME")) as server:
        run = await deliver(to(server), mails)
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert server.commands("MAIL") == [
            "MAIL FROM:<>",
            "MAIL FROM:<a@ours.test>",
            "MAIL FROM:<a@ours.test> SMTPUTF8",
        ]
        assert server.recipients == [m.rcpt_to for m in mails]


async def test_what_the_peer_cannot_take() -> None:
    mails = [Mail("", "jos\u00e9@peer.test", CONTENT, "utf8"), mail("8bit", b"\r\n\xe9\r\n"), mail("plain")]
    async with SmtpServer(extensions=("PIPELINING",)) as server:
        run = await deliver(to(server), mails)
        assert (run["utf8"].result, str(run["utf8"].reply)[:9]) == (Result.FAILED, "553 5.6.7")
        assert (run["8bit"].result, str(run["8bit"].reply)[:9]) == (Result.FAILED, "554 5.6.3")
        assert server.recipients == ["plain@peer.test"]
    async with SmtpServer(extensions=("PIPELINING", "8BITMIME", "SIZE")) as server:
        run = await deliver(to(server), mails[1:])
        assert server.commands("MAIL")[0] == "MAIL FROM:<bounce+8bit@ours.test> SIZE=5 BODY=8BITMIME"
        assert server.caught[0].wire == b"\r\n\xe9\r\n"


@PIPELINING
@pytest.mark.parametrize("size", [0, 1, 200_000, 3_000_000])
async def test_content_arrives_as_it_is(size: int, extensions: tuple[str, ...]) -> None:
    line = b"..leading dots and a line of some length, so that pieces are cut anywhere\r\n.\r\n"
    content = (line * (size // len(line) + 1))[:size].rstrip(b"\r\n")
    async with SmtpServer(extensions=extensions) as server:
        run = await deliver(to(server), [mail("a", content), mail("b"), mail("c", content + b"\r\n")])
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        want = content + b"\r\n" if content else b""
        assert [c.content for c in server.caught] == [want, CONTENT, content + b"\r\n"]


async def test_forty_megabytes_to_a_slow_reader() -> None:
    """Longer than the block timeout in all, but never without progress."""

    def content(talk: Talk) -> Step | None:
        step = talk.received // 4_000_000
        if step > getattr(talk, "pauses", 0):
            talk.pauses = step
            release = asyncio.Event()
            asyncio.get_running_loop().call_later(0.2, release.set)
            return Step(wait=release)
        return Step()

    async with SmtpServer({"content": content}) as server:
        big = b"Subject: big\r\n\r\n" + (b"x" * 70_000 + b"\r\n") * 600
        run = await deliver(to(server), [mail("a", big), mail("b")], timeouts=replace(PATIENT, block=1.0))
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert server.caught[0].content == big


async def test_a_peer_that_stops_reading() -> None:
    never = asyncio.Event()
    script = {"content": lambda talk: Step(wait=never) if talk.received > 300_000 else Step()}
    async with SmtpServer(script) as server:
        outcome = (
            await deliver(
                to(server), [mail("a", b"x" * 78 + b"\r\n" * 20_000_000)], timeouts=replace(PATIENT, block=0.3)
            )
        )["a"]
        assert outcome.result is Result.DEFERRED
        assert not outcome.dot_sent
        assert outcome.rule == "timeout"
        never.set()


async def test_refused_in_the_middle_of_the_content() -> None:
    async def run(text: str) -> None:
        def content(talk: Talk) -> Step:
            if talk.received < 1_000_000 or getattr(talk, "said", False):
                return Step()
            talk.said = True
            return Step(text)

        async with SmtpServer({"content": content}) as server, SmtpServer() as other:
            big = (b"x" * 998 + b"\r\n") * 30_000
            outcome = (await deliver(to(server, other), [mail("a", big)]))["a"]
            assert outcome.result is (Result.BOUNCED if text[0] == "5" else Result.DEFERRED)
            assert str(outcome.reply) == text
            assert not outcome.dot_sent
            assert server.caught == []
            assert other.talks == []

    await run("552 5.3.4 too big")
    await run("452 4.3.1 no room")


async def test_cancelled_in_the_middle() -> None:
    """What was begun gets its outcome; what was not stays in the queue."""
    never = asyncio.Event()
    async with SmtpServer({"dot": Step("250 ok", wait=never)}) as server:
        queue = MailQueue([mail(n) for n in "abcd"], closed=True)
        outcomes = {}
        pool = Pool("ours.test")
        delivery = asyncio.ensure_future(
            pool.deliver(
                to(server), queue, connections=1, before_dot=yes, on_outcome=lambda m, o: outcomes.update({m.key: o})
            )
        )
        await until(lambda: server.caught)
        delivery.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivery
        assert list(outcomes) == ["a"]
        assert outcomes["a"].dot_sent
        assert outcomes["a"].result is Result.DEFERRED
        assert [m.key for m in queue.take_all()] == ["b", "c", "d"]
        await pool.close()
        assert pool.open_connections() == 0
        never.set()
