"""What a peer offers and a mail asks for: CHUNKING, SIZE, SMTPUTF8, DSN, REQUIRETLS, LIMITS."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from mailcore.smtp.dsn import DsnRequest, Notify, Ret
from mailcore.smtp.outcome import Result
from mailcore.transport import Mail, MailQueue, Pool, TlsPolicy
from mailcore.transport.content import PIECE

from .harness import CONTENT, PATIENT, certificate, deliver, mail, to, until, yes

CHUNKING = ("PIPELINING", "8BITMIME", "SIZE", "CHUNKING")
LARGE = b"Subject: large\r\n\r\n" + (b"." + b"x" * 77 + b"\r\n") * (3 * PIECE // 80)


# ---- CHUNKING


async def test_a_chunk_travels_with_the_next_envelope() -> None:
    """RFC 3030, RFC 2920: one round trip a mail, as with DATA, and no dot is stuffed."""
    hold = asyncio.Event()
    dots = b"Subject: dots\r\n\r\n.\r\n..\r\n.hidden\r\n"
    async with SmtpServer({"dot": [Step("250 kept", wait=hold), Step("250 kept")]}, extensions=CHUNKING) as server:
        delivery = asyncio.ensure_future(deliver(to(server), [mail("a", dots), mail("b")]))
        await until(lambda: server.caught)
        await until(lambda: b"RCPT TO:<b@peer.test>\r\n" in bytes(server.talks[0].reader._buffer))
        hold.set()
        run = await delivery
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert [c.wire for c in server.caught] == [dots, CONTENT]
        assert server.commands("DATA") == []
        assert server.commands("BDAT") == [f"BDAT {len(dots)} LAST", f"BDAT {len(CONTENT)} LAST"]
        said = [line.said for line in run["a"].conversation if line.said]
        assert said[-1] == f"BDAT {len(dots)} LAST (of {len(dots)} bytes)"


async def test_no_content_before_the_recipient_is_taken() -> None:
    async with SmtpServer({"rcpt": Step("550 5.1.1 unknown")}, extensions=CHUNKING) as server:
        run = await deliver(to(server), [mail("a"), mail("b")])
        assert {o.result for o in run.outcomes.values()} == {Result.BOUNCED}
        assert server.commands("BDAT") == []


@pytest.mark.parametrize("extensions", [CHUNKING, ("CHUNKING",)], ids=["pipelined", "lock-step"])
async def test_large_content_in_chunks(extensions: tuple[str, ...]) -> None:
    async with SmtpServer(extensions=extensions) as server:
        run = await deliver(to(server), [mail("a", LARGE), mail("b"), mail("c", LARGE[:-2])])
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert [c.wire == LARGE for c in server.caught] == [True, False, True]
        assert [c.chunks for c in server.caught] == [3, 1, 3]
        asked = sum(int(line.split()[1]) for line in server.commands("BDAT")[:3])
        assert asked == len(LARGE)
        assert len(server.talks) == 1


@pytest.mark.parametrize(
    ("reply", "result"), [("552 5.3.4 too large", Result.BOUNCED), ("452 4.3.1 full", Result.DEFERRED)]
)
async def test_a_chunk_is_refused(reply: str, result: Result) -> None:
    """RFC 3030 §2: no further chunk of that mail; the others go on, over another connection."""
    refuse = lambda talk: Step(reply) if talk.recipient.startswith("a") else None  # noqa: E731
    async with SmtpServer({"bdat": refuse}, extensions=CHUNKING) as server, SmtpServer() as other:
        run = await deliver(to(server, other), [mail("a", LARGE), mail("b")])
        assert run["a"].result is result
        assert str(run["a"].reply) == reply
        assert not run["a"].dot_sent
        assert run["b"].result is Result.DELIVERED
        assert server.recipients == ["b@peer.test"]
        assert other.talks == []


async def test_a_refused_last_chunk_harms_nobody_behind_it() -> None:
    """Whether a refused BDAT LAST ends the transaction, servers see differently: one that says 503 to the MAIL behind it."""
    refused = lambda talk: Step("554 5.7.1 spam") if talk.recipient.startswith("x") else None  # noqa: E731

    def out_of_sequence(talk: Talk) -> Step | None:
        return Step("503 5.5.1 RSET first") if getattr(talk, "open", False) else None

    def dot(talk: Talk) -> Step | None:
        step = refused(talk)
        talk.open = step is not None
        return step

    def rset(talk: Talk) -> None:
        talk.open = False

    script = {"dot": dot, "mail": out_of_sequence, "rset": rset}
    async with SmtpServer(script, extensions=CHUNKING) as server:
        run = await deliver(to(server), [mail(n) for n in ("x1", "b", "c", "x2", "d", "x3")])
        assert {n: o.result for n, o in run.outcomes.items() if n[0] == "x"} == dict.fromkeys(
            ("x1", "x2", "x3"), Result.BOUNCED
        )
        assert {o.result for n, o in run.outcomes.items() if n[0] != "x"} == {Result.DELIVERED}
        assert sorted(r[0] for r in server.recipients if r[0] != "x") == ["b", "c", "d"]
        assert server.commands("RSET"), "with nothing behind it, the transaction is ended"


async def test_chunking_that_is_only_offered() -> None:
    """A box in between lets the word through and not the command: the mail goes by DATA, and the next ones at once."""
    no = Step("500 5.5.2 what?")
    async with SmtpServer({"dot": [no, Step("250 kept")]}, extensions=CHUNKING) as server, SmtpServer() as other:
        pool = Pool("ours.test", timeouts=PATIENT)
        run = await deliver(to(server, other), [mail("a"), mail("b")], pool=pool)
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert [o.mx_host for o in run.outcomes.values()] == ["mx0.test"] * 2
        assert Counter(command.split()[0] for talk in server.talks for command in talk.commands)["BDAT"] == 1
        assert len(server.commands("DATA")) == 2
        await deliver(to(server), [mail("c")], pool=pool)
        assert len(server.commands("BDAT")) == 1, "remembered"
        await pool.close()


async def test_chunking_can_be_switched_off() -> None:
    async with SmtpServer(extensions=CHUNKING) as server:
        await deliver(to(server), [mail("a")], chunking=False)
        assert server.commands("BDAT") == []
        assert server.commands("DATA") == ["DATA"]


async def test_a_lost_reply_to_the_last_chunk_is_a_lost_dot() -> None:
    async with SmtpServer({"dot": Step(cut=True)}, extensions=CHUNKING) as server, SmtpServer() as other:
        outcome = (await deliver(to(server, other), [mail("a", LARGE)]))["a"]
        assert (outcome.result, outcome.rule, outcome.dot_sent) == (Result.DEFERRED, "reply-lost", True)
        assert other.talks == []


async def test_a_connection_that_breaks_between_chunks() -> None:
    async with SmtpServer({"bdat": Step(cut=True)}, extensions=CHUNKING) as server, SmtpServer() as other:
        outcome = (await deliver(to(server, other), [mail("a", LARGE)]))["a"]
        assert (outcome.result, outcome.mx_host) == (Result.DELIVERED, "mx1.test")
        assert server.caught == []
        assert other.caught[0].content == LARGE


# ---- SIZE, SMTPUTF8


async def test_a_mail_that_is_too_large_for_the_peer_is_not_sent() -> None:
    """RFC 1870: its own number says so before a single octet of content."""
    async with SmtpServer(extensions=("PIPELINING", f"SIZE {len(CONTENT)}")) as server:
        run = await deliver(to(server), [mail("fits"), mail("large", CONTENT + b"x")])
        assert run["fits"].result is Result.DELIVERED
        assert (run["large"].result, run["large"].rule, str(run["large"].reply)[:9]) == (
            Result.FAILED,
            "size",
            "552 5.3.4",
        )
        assert server.commands("MAIL") == [f"MAIL FROM:<bounce+fits@ours.test> SIZE={len(CONTENT)}"]


async def test_an_internationalized_header() -> None:
    content = "To: j\u00f6rg@peer.test\r\nSubject: x\r\n\r\nbody\r\n".encode()
    async with SmtpServer(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8")) as server:
        await deliver(to(server), [mail("a", content)])
        assert server.commands("MAIL") == ["MAIL FROM:<bounce+a@ours.test> BODY=8BITMIME SMTPUTF8"]
    async with SmtpServer() as server:
        outcome = (await deliver(to(server), [mail("a", content)]))["a"]
        assert (outcome.result, str(outcome.reply)[:9]) == (Result.FAILED, "553 5.6.9")
        assert server.commands("MAIL") == []


# ---- DSN


async def test_reports_are_asked_for_where_the_peer_can_make_them() -> None:
    asked = DsnRequest(Ret.HDRS, "our=id", frozenset({Notify.SUCCESS}), orcpt="old@peer.test")
    mails = [replace(mail("a"), dsn=asked), mail("b")]
    async with SmtpServer(extensions=("PIPELINING", "DSN")) as server:
        run = await deliver(to(server), mails)
        assert server.commands("MAIL")[0] == "MAIL FROM:<bounce+a@ours.test> RET=HDRS ENVID=our+3Did"
        assert server.commands("RCPT")[0] == "RCPT TO:<a@peer.test> NOTIFY=SUCCESS ORCPT=rfc822;old@peer.test"
        assert server.commands("RCPT")[1] == "RCPT TO:<b@peer.test>"
        assert (run["a"].dsn, run["b"].dsn) == (True, False)
    async with SmtpServer() as server:
        run = await deliver(to(server), mails)
        assert server.commands("RCPT")[0] == "RCPT TO:<a@peer.test>"
        assert (run["a"].result, run["a"].dsn) == (Result.DELIVERED, False), "we owe a relayed report"


# ---- REQUIRETLS


async def test_requiretls_goes_to_the_host_that_promises_it() -> None:
    server_tls, client_tls = certificate("mx1.test")
    strict = replace(mail("a"), requiretls=True)
    changes = {"tls": TlsPolicy.OPPORTUNISTIC, "tls_context": client_tls, "requiretls": True}
    async with (
        SmtpServer(tls=certificate("mx0.test")[0]) as lacking,
        SmtpServer(tls=server_tls, extensions=("PIPELINING", "REQUIRETLS")) as able,
    ):
        only_able = replace(to(lacking, able, **changes), tls_context=client_tls)
        run = await deliver(only_able, [strict])
        assert (run["a"].result, run["a"].mx_host) == (Result.DELIVERED, "mx1.test")
        assert able.commands("MAIL") == ["MAIL FROM:<bounce+a@ours.test> REQUIRETLS"]
        assert able.caught[0].tls
        assert lacking.commands("MAIL") == []


@pytest.mark.parametrize(
    "extensions", [("PIPELINING",), ("PIPELINING", "REQUIRETLS")], ids=["lacking", "in clear only"]
)
async def test_requiretls_without_a_host_that_promises_it(extensions: tuple[str, ...]) -> None:
    """RFC 8689 §4.2.1: nothing leaves; the sender is told at once where TLS is there and the promise is not."""
    server_tls, client_tls = certificate("mx0.test")
    strict = replace(mail("a"), requiretls=True)
    with_tls = "REQUIRETLS" not in extensions
    async with SmtpServer(tls=server_tls if with_tls else None, extensions=extensions) as server:
        destination = to(server, tls=TlsPolicy.OPPORTUNISTIC, tls_context=client_tls, requiretls=True)
        outcome = (await deliver(destination, [strict]))["a"]
        if with_tls:
            assert (outcome.result, outcome.rule) == (Result.FAILED, "requiretls-not-offered")
            assert str(outcome.reply) == "550 5.7.30 REQUIRETLS support required"
        else:
            assert (outcome.result, outcome.rule) == (Result.DEFERRED, "tls-not-offered")
        assert server.commands("MAIL") == []
        # and in a queue that does not ask for it, the mail still does not go
        outcome = (await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [strict]))["a"]
        assert (outcome.result, outcome.rule) == (Result.FAILED, "requiretls-not-offered")
        assert server.commands("MAIL") == []


async def test_a_host_that_may_come_back_is_waited_for() -> None:
    """One host lacks REQUIRETLS and another cannot be reached: it may be able, so the mail is not failed."""
    server_tls, client_tls = certificate("mx1.test")
    async with SmtpServer({"greeting": Step("421 later")}) as away, SmtpServer(tls=server_tls) as lacking:
        destination = to(away, lacking, tls=TlsPolicy.OPPORTUNISTIC, tls_context=client_tls, requiretls=True)
        outcome = (await deliver(destination, [replace(mail("a"), requiretls=True)]))["a"]
        assert outcome.result is Result.DEFERRED


# ---- limits of a connection


async def test_a_peer_may_limit_the_mails_of_a_connection() -> None:
    """RFC 9422: MAILMAX."""
    async with SmtpServer(extensions=("PIPELINING", "LIMITS MAILMAX=2")) as server:
        run = await deliver(to(server), [mail(n) for n in "abcde"])
        assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
        assert [sum(c.startswith("MAIL") for c in talk.commands) for talk in server.talks] == [2, 2, 1]


async def test_a_sites_own_number_of_mails_a_connection() -> None:
    async with SmtpServer() as server:
        await deliver(to(server, mails_per_connection=3), [mail(n) for n in "abcd"])
        assert [sum(c.startswith("MAIL") for c in talk.commands) for talk in server.talks] == [3, 1]


async def test_a_connection_grows_old() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, age=0.2, idle=30)
        queue = MailQueue([mail("a")])
        outcomes: list[str] = []
        delivery = asyncio.ensure_future(
            pool.deliver(
                to(server),
                queue,
                connections=1,
                before_dot=yes,
                on_outcome=lambda m, _: outcomes.append(str(m.key)),
            )
        )
        await until(lambda: outcomes == ["a"])
        await asyncio.sleep(0.25)
        queue.put(mail("b"))
        await until(lambda: outcomes == ["a", "b"])
        assert len(server.talks) == 2
        queue.close()
        await delivery
        await pool.close()


# ---- several hosts and names


async def test_equal_preferences_share_the_connections() -> None:
    async with SmtpServer() as one, SmtpServer() as two, SmtpServer() as backup:
        destination = to(one, two, backup)
        hops = [replace(hop, preference=p) for hop, p in zip(destination.hops, (10, 10, 20), strict=True)]
        destination = replace(destination, hops=tuple(hops))
        hold = asyncio.Event()
        one.script = two.script = {"dot": Step("250 kept", wait=hold)}
        delivery = asyncio.ensure_future(deliver(destination, [mail(f"m{n}") for n in range(8)], connections=4))
        await until(lambda: len(one.talks) + len(two.talks) == 4)
        hold.set()
        await delivery
        assert (len(one.talks), len(two.talks), len(backup.talks)) == (2, 2, 0)
        drawn = set()
        for n in range(40):
            drawn.add((await deliver(destination, [mail(f"d{n}")]))[f"d{n}"].mx_host)
            if len(drawn) == 2:
                break
        assert drawn == {"mx0.test", "mx1.test"}


async def test_one_of_equals_is_down() -> None:
    async with SmtpServer({"greeting": Step("554 no")}) as down, SmtpServer() as up, SmtpServer() as backup:
        destination = to(down, up, backup)
        hops = [replace(hop, preference=p) for hop, p in zip(destination.hops, (10, 10, 20), strict=True)]
        for n in range(6):
            run = await deliver(replace(destination, hops=tuple(hops)), [mail(f"m{n}"), mail(f"n{n}")], connections=2)
            assert {o.mx_host for o in run.outcomes.values()} == {"mx1.test"}
        assert backup.talks == []


async def test_a_source_has_its_own_name() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        for helo in (None, "mail7.ours.test", None):
            await deliver(to(server, helo=helo), [Mail("", "x@peer.test", CONTENT, "x")], pool=pool)
        assert server.commands("EHLO") == ["EHLO ours.test", "EHLO mail7.ours.test"], "and its own connections"
        with pytest.raises(ValueError, match="EHLO name"):
            await deliver(to(server, helo="a\r\nMAIL"), [mail("a")], pool=pool)
        await pool.close()
