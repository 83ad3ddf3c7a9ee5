"""The pool: reuse, limits, growth, hops, a queue that is filled while it is drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from fakes.smtp_server import CUT, SmtpServer, Step, Talk
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.transport import Destination, Hop, Mail, MailQueue, Pool, TlsPolicy, Transport
from mailcore.transport.memory import MemoryTransport
from mailcore.transport.route import CLOSED
from peers import free_port

from .harness import PATIENT, deliver, mail, to, until, yes


def mails(count: int, start: int = 0) -> list[Mail]:
    return [mail(f"m{n}") for n in range(start, start + count)]


def delivered(outcomes: dict[str, Outcome]) -> bool:
    return {o.result for o in outcomes.values()} == {Result.DELIVERED}


async def test_connections_stay_warm_between_calls() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=60)
        for batch in range(3):
            assert delivered((await deliver(to(server), mails(4, 4 * batch), pool=pool)).outcomes)
        assert len(server.talks) == 1
        assert pool.open_connections() == 1
        await pool.close()
        assert pool.open_connections() == 0
        assert server.talks[0].commands[-1] == "QUIT"


async def test_idle_connections_are_closed() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=0.05)
        await deliver(to(server), mails(1), pool=pool)
        await until(lambda: pool.open_connections() == 0)
        assert server.talks[0].commands[-1] == "QUIT"
        assert delivered((await deliver(to(server), mails(1), pool=pool)).outcomes)
        assert len(server.talks) == 2
        await pool.close()


@pytest.mark.parametrize("extensions", [("PIPELINING",), ()])
async def test_mails_a_connection(extensions: tuple[str, ...]) -> None:
    async with SmtpServer(extensions=extensions) as server:
        pool = Pool("ours.test", timeouts=PATIENT, mails=4)
        assert delivered((await deliver(to(server), mails(10), pool=pool)).outcomes)
        await pool.close()
        counts = [sum(c.startswith("MAIL") for c in talk.commands) for talk in server.talks]
        assert counts == [4, 4, 2]
        assert all(talk.commands[-1] == "QUIT" for talk in server.talks)
        assert server.most_open <= 2, "the one that quits and the next"


async def test_other_source_or_policy_is_another_connection() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=60)
        for destination in (to(server), to(server, source_ip="127.0.0.1"), to(server, tls=TlsPolicy.OPPORTUNISTIC)):
            await deliver(destination, mails(1), pool=pool)
        assert len(server.talks) == 3
        await pool.close()


async def test_no_reuse_for_another_host() -> None:
    """The site's hosts have changed: what is warm belongs to one that is no longer among them."""
    async with SmtpServer() as before, SmtpServer() as after:
        pool = Pool("ours.test", timeouts=PATIENT, idle=60)
        await deliver(to(before), mails(1), pool=pool)
        await deliver(to(after), mails(1), pool=pool)
        assert len(after.caught) == 1
        await until(lambda: before.talks[0].over)
        await pool.close()


async def test_a_warm_connection_that_has_died() -> None:
    """Closed by the peer while idle, with or without 421, or just when we write: no mail suffers."""
    for farewell in (Step("421 4.4.2 idle too long\r\n", cut=True), CUT):
        async with SmtpServer() as server:
            pool = Pool("ours.test", timeouts=PATIENT, idle=60)
            await deliver(to(server), mails(1), pool=pool)
            talk = server.talks[0]
            talk.writer.write(farewell.text.encode())
            talk.writer.close()
            await until(lambda talk=talk: talk.over)
            assert delivered((await deliver(to(server), mails(3), pool=pool)).outcomes)
            await pool.close()
    for farewell in (Step("421 4.4.2 idle too long\r\n", cut=True), CUT):
        turns = [None, farewell, None]
        async with SmtpServer({"mail": lambda _, turns=turns: turns.pop(0) if turns else None}) as server:
            pool = Pool("ours.test", timeouts=PATIENT, idle=60)
            await deliver(to(server), mails(1), pool=pool)
            assert delivered((await deliver(to(server), mails(3), pool=pool)).outcomes)
            assert len(server.caught) == 4
            await pool.close()


async def test_a_connection_that_dies_while_it_waits_for_mail() -> None:
    """A session of a call that is still open, closed by the peer before its first mail or after: no mail suffers."""
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=60)
        queue, outcomes = MailQueue(mails(1)), {}
        delivery = asyncio.ensure_future(
            pool.deliver(
                to(server), queue, connections=1, before_dot=yes, on_outcome=lambda m, o: outcomes.update({m.key: o})
            )
        )
        for n in range(1, 5):
            await until(lambda n=n: len(outcomes) == n)
            server.talks[-1].writer.write(b"421 4.4.2 idle too long\r\n")
            server.talks[-1].writer.close()
            await until(lambda: server.open == 0)
            queue.put(mails(1, n)[0])
        queue.close()
        await asyncio.wait_for(delivery, 90)
        assert delivered(outcomes)
        assert len(server.caught) == len(outcomes) == 5
        await pool.close()


async def test_the_number_of_connections() -> None:
    together = asyncio.Event()

    async with SmtpServer({"dot": Step("250 kept", wait=together)}) as server:
        delivery = asyncio.ensure_future(deliver(to(server), mails(60), connections=7))
        await until(lambda: server.open == 7)
        together.set()
        assert delivered((await delivery).outcomes)
        assert server.most_open == 7
        assert sorted(server.recipients) == sorted(m.rcpt_to for m in mails(60))


async def test_calls_for_one_site_share_the_limit() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        runs = await asyncio.gather(
            *(deliver(to(server), mails(30, 30 * n), pool=pool, connections=3) for n in range(5))
        )
        assert all(delivered(run.outcomes) for run in runs)
        assert len(server.caught) == 150
        assert server.most_open <= 3
        await pool.close()


async def test_the_limit_moves_while_it_runs() -> None:
    """A smaller share: connections end after the mail they are at. A larger one: more come."""
    hold = asyncio.Event()

    async with SmtpServer({"dot": lambda _: Step("250 kept", wait=hold)}) as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=60)
        first = asyncio.ensure_future(deliver(to(server), mails(200), pool=pool, connections=6))
        await until(lambda: server.open == 6)
        second = asyncio.ensure_future(deliver(to(server), mails(1, 200), pool=pool, connections=2))
        await asyncio.sleep(0)
        hold.set()
        await until(lambda: server.open == 2)
        server.most_open = 0
        assert delivered((await first).outcomes)
        assert delivered((await second).outcomes)
        assert server.most_open <= 2
        assert len(server.caught) == 201
        await pool.close()


async def test_one_connection_finds_out_that_a_site_is_down() -> None:
    async with SmtpServer({"greeting": Step("421 4.7.0 too much from you\r\n", cut=True)}) as server:
        run = await deliver(to(server), mails(500), connections=20)
        assert {(o.result, str(o.reply)) for o in run.outcomes.values()} == {
            (Result.DEFERRED, "421 4.7.0 too much from you")
        }
        assert len(server.talks) == 1
        assert run.asked == []


async def test_nobody_listens() -> None:
    dead = Hop("dead.test", ("127.0.0.1", "127.0.0.2"), free_port())
    run = await deliver(Destination("x", (dead,)), mails(3))
    for outcome in run.outcomes.values():
        assert outcome.result is Result.DEFERRED
        assert outcome.rule == "connect-failed"
        assert outcome.mx_ip == "127.0.0.2"
        assert outcome.reply.enhanced == "4.4.1"
    async with SmtpServer() as server:
        run = await deliver(Destination("x", (dead, Hop("good.test", ("127.0.0.1",), server.port))), mails(3))
        assert delivered(run.outcomes)
        assert run["m0"].mx_host == "good.test"


async def test_a_peer_that_allows_two_connections() -> None:
    """The third is refused: it is neither a dead site nor a reason for the next hop."""

    def greeting(_: Talk) -> Step | None:
        return Step("421 4.7.0 too many connections\r\n", cut=True) if server.open > 2 else None

    async with SmtpServer({"greeting": greeting}) as server, SmtpServer() as backup:
        run = await deliver(to(server, backup), mails(300), connections=10)
        assert delivered(run.outcomes)
        assert backup.talks == []
        assert len(server.caught) == 300


async def test_a_peer_that_allows_more_later_is_asked_for_more() -> None:
    """One at a time, and twice as late after each refusal."""
    allowed = 1

    def greeting(_: Talk) -> Step | None:
        return Step("421 4.7.0 too many connections\r\n", cut=True) if server.open > allowed else None

    outcomes: list[Outcome] = []

    async def feed(until_open: int, talks: int) -> None:
        while server.open < until_open or len(server.talks) < talks:
            for each in mails(5):
                queue.put(each)
            await asyncio.sleep(0.001)

    async with SmtpServer({"greeting": greeting}) as server:
        pool = Pool("ours.test", timeouts=PATIENT, rise_seconds=0.02, rise_longest=0.05)
        queue = MailQueue(mails(50))
        task = asyncio.create_task(
            pool.deliver(
                to(server),
                queue,
                connections=5,
                before_dot=yes,
                on_outcome=lambda _, outcome: outcomes.append(outcome),
            )
        )
        async with asyncio.timeout(90):
            await feed(1, 5)  # asked again and again, and refused
            allowed = 5
            await feed(5, 5)
        queue.close()
        await task
        assert {o.result for o in outcomes} == {Result.DELIVERED}
        assert len(outcomes) == len(server.caught)
        await pool.close()


@pytest.mark.parametrize("allowed", [1, 2])
async def test_a_connection_that_is_on_its_way_out_is_not_the_sites_end(allowed: int) -> None:
    """The peer counts it until it has said goodbye, and refuses the one that takes its place."""

    def greeting(talk: Talk) -> Step | None:
        return Step("421 4.7.0 too many connections\r\n", cut=True) if server.open > allowed else None

    def quitting(_: Talk) -> Step:
        return Step("221 2.0.0 bye", drip=0.002)

    async with SmtpServer({"greeting": greeting, "quit": quitting}) as server:
        pool = Pool("ours.test", timeouts=PATIENT, mails=3)
        run = await deliver(to(server), mails(60), pool=pool, connections=allowed)
        assert delivered(run.outcomes)
        assert len(server.caught) == 60


async def test_two_connections_that_are_replaced_at_one_time_are_not_the_sites_end() -> None:
    """Refused once more, because the other one is on its way out by then, and the one in its place is not up yet."""
    names = ("first dot", "first quit", "second dot", "second quit", "late")
    gates = {name: asyncio.Event() for name in names}
    refusal = Step("421 4.7.0 too many connections\r\n", cut=True)

    def of_the_first_two(phase: str, plain: str) -> Callable[[Talk], Step | None]:
        def step(talk: Talk) -> Step | None:
            number = server.talks.index(talk)
            return Step(plain, wait=gates[f"{('first', 'second')[number]} {phase}"]) if number < 2 else None

        return step

    def greeting(talk: Talk) -> Step | None:
        return {2: refusal, 3: Step("220 hello", wait=gates["late"]), 4: refusal}.get(server.talks.index(talk))

    script = {"greeting": greeting, "dot": of_the_first_two("dot", "250 kept"), "quit": of_the_first_two("quit", "221")}
    async with SmtpServer(script) as server:
        pool = Pool("ours.test", timeouts=PATIENT, mails=1)
        delivery = asyncio.ensure_future(deliver(to(server), mails(6), pool=pool, connections=2))
        await until(lambda: len(server.caught) == 2)
        for gate, talks in (("first dot", 3), ("second dot", 4), ("first quit", 5)):
            gates[gate].set()
            await until(lambda talks=talks: len(server.talks) == talks)
        await until(lambda: server.talks[4].over)
        gates["second quit"].set()
        gates["late"].set()
        assert delivered((await delivery).outcomes)
        await pool.close()


async def test_a_warm_connection_is_all_that_a_peer_allows() -> None:
    """Refused beside a connection that was kept from the call before: still no dead site."""

    def greeting(_: Talk) -> Step | None:
        return Step("421 4.7.0 too many connections\r\n", cut=True) if server.open > 1 else None

    async with SmtpServer({"greeting": greeting}) as server, SmtpServer() as backup:
        pool = Pool("ours.test", timeouts=PATIENT, mails=60)
        await deliver(to(server, backup), mails(1), pool=pool)
        run = await deliver(to(server, backup), mails(200), pool=pool, connections=4)
        assert delivered(run.outcomes)
        assert backup.talks == []
        await pool.close()


async def test_a_peer_that_takes_one_mail_a_connection() -> None:
    """421 or a plain close after the first mail's reply: the mail behind it goes over the next connection."""
    for farewell in ("250 kept\r\n421 4.7.0 that was it\r\n", "250 kept\r\n"):
        async with SmtpServer({"dot": Step(farewell, cut=True)}) as server:
            run = await deliver(to(server), mails(12), connections=3)
            assert delivered(run.outcomes)
            assert sorted(server.recipients) == sorted(m.rcpt_to for m in mails(12)), "each once"


async def test_a_storm_of_421() -> None:
    """R12: a site that says 421 to every mail gets a few connections, not one a mail."""
    async with SmtpServer({"mail": Step("421 4.3.2 overloaded: m17@peer.test\r\n", cut=True)}) as server:
        run = await deliver(to(server), mails(200), connections=10)
        assert {(o.result, o.reply.code) for o in run.outcomes.values()} == {(Result.DEFERRED, 421)}
        assert len(server.talks) < CLOSED + 10, "those in a row, and what was under way"
        others = [o for o in run.outcomes.values() if not o.conversation]
        assert len(others) > 150
        assert not any("m17" in o.reply.text for o in others), "words about one mail are not shown for others"


async def test_hops_change_in_the_middle() -> None:
    """The first host dies while it is in use: what is left goes to the second, and nothing twice."""

    def mail_step(_: Talk) -> Step | None:
        return CUT if len(dying.caught) >= 5 else None

    def greeting(_: Talk) -> Step | None:
        return CUT if len(dying.caught) >= 5 else None

    async with SmtpServer({"mail": mail_step, "greeting": greeting}) as dying, SmtpServer() as second:
        run = await deliver(to(dying, second), mails(40))
        assert delivered(run.outcomes)
        assert sorted(dying.recipients + second.recipients) == sorted(m.rcpt_to for m in mails(40))
        assert len(second.caught) == 35


async def test_a_break_on_a_fresh_session_beside_a_good_one() -> None:
    """One connection of several is cut on its first mail: no reason to leave a host that the others work with."""

    def mail_step(talk: Talk) -> Step | None:
        return CUT if talk is server.talks[-1] and len(server.talks) == 3 else None

    async with SmtpServer({"mail": mail_step}) as server, SmtpServer() as backup:
        run = await deliver(to(server, backup), mails(100), connections=3)
        assert delivered(run.outcomes)
        assert backup.talks == []


async def test_cuts_at_random_lose_nothing() -> None:
    """R10 in small: one reply in so many is a cut, wherever it falls. Twice only where the dot was out, and all are told."""
    for period in (7, 9, 11, 13, 17, 23):
        turn = 0

        def cut(_: Talk, period: int = period) -> Step | None:
            nonlocal turn
            turn += 1
            return CUT if turn % period == 0 else None

        async with SmtpServer(dict.fromkeys(("mail", "rcpt", "data", "dot"), cut)) as server:
            run = await deliver(to(server), mails(60), connections=4)
            got = server.recipients
            assert len(got) == len(set(got)), "nothing is sent twice in one call"
            for name, outcome in run.outcomes.items():
                if outcome.result is Result.DELIVERED:
                    assert f"{name}@peer.test" in got
                elif f"{name}@peer.test" in got:
                    assert outcome.dot_sent
                    assert outcome.rule == "reply-lost"
            assert sum(o.result is Result.DELIVERED for o in run.outcomes.values()) >= 30


async def test_a_queue_filled_while_it_is_drained() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        queue, outcomes = MailQueue(), {}
        delivery = asyncio.ensure_future(
            pool.deliver(
                to(server), queue, connections=5, before_dot=yes, on_outcome=lambda m, o: outcomes.update({m.key: o})
            )
        )
        for n, each in enumerate(mails(100)):
            queue.put(each)
            if n % 10 == 0:
                await until(lambda n=n: len(outcomes) == n + 1)
        await until(lambda: len(outcomes) == 100)
        assert not delivery.done()
        queue.close()
        await asyncio.wait_for(delivery, 90)
        assert delivered(outcomes)
        with pytest.raises(ValueError, match="closed"):
            queue.put(mail())
        await pool.close()


async def test_taking_back_what_was_not_begun() -> None:
    """A process that drains: what is on its way is finished, the rest is its caller's again."""
    hold = asyncio.Event()
    async with SmtpServer({"dot": Step("250 kept", wait=hold)}) as server:
        pool = Pool("ours.test", timeouts=PATIENT)
        queue, outcomes = MailQueue(mails(10)), {}
        delivery = asyncio.ensure_future(
            pool.deliver(
                to(server), queue, connections=1, before_dot=yes, on_outcome=lambda m, o: outcomes.update({m.key: o})
            )
        )
        await until(lambda: server.caught)
        taken = queue.take_all()
        queue.close()
        hold.set()
        await asyncio.wait_for(delivery, 90)
        assert sorted([*outcomes, *(str(m.key) for m in taken)]) == sorted(str(m.key) for m in mails(10))
        assert delivered(outcomes)
        await pool.close()


async def test_an_empty_closed_queue() -> None:
    async with SmtpServer() as server:
        assert (await deliver(to(server), [])).outcomes == {}
        assert server.talks == []


async def test_a_caller_whose_on_outcome_raises() -> None:
    """The fault is shown; the other mails are not kept from their outcomes."""
    faults = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    seen = []

    def on_outcome(of: Mail, _: Outcome) -> None:
        seen.append(of.key)
        if of.key == "m1":
            raise RuntimeError("a fault of the caller")

    try:
        async with SmtpServer() as server:
            pool = Pool("ours.test", timeouts=PATIENT)
            await pool.deliver(
                to(server), MailQueue(mails(4), closed=True), connections=1, before_dot=yes, on_outcome=on_outcome
            )
            await pool.close()
            assert sorted(seen) == ["m0", "m1", "m2", "m3"]
            assert len(server.caught) == len(set(server.recipients))
    finally:
        loop.set_exception_handler(before)
    assert [str(fault) for fault in faults] == ["a fault of the caller"]


# ---- the seam: one contract, the real one and the stand-in


@pytest.mark.parametrize("kind", ["pool", "memory"])
async def test_contract(kind: str) -> None:
    def answer(of: str) -> str:
        return {"b": "550 5.1.1 unknown", "c": "451 4.7.1 later"}.get(of[0], "250 2.0.0 kept")

    async with SmtpServer({"dot": lambda talk: Step(answer(talk.recipient))}) as server:
        transport: Transport
        if kind == "pool":
            transport = Pool("ours.test", timeouts=PATIENT)
        else:
            transport = MemoryTransport(lambda of: Reply.of(int(answer(of.rcpt_to)[:3]), [answer(of.rcpt_to)[4:]]))

        async def before_dot(of: Mail) -> bool:
            return of.key != "d"

        queue, outcomes = MailQueue([mail(n) for n in "abcd"]), {}
        queue.put(mail("e", b"bare\nline"))
        delivery = asyncio.ensure_future(
            transport.deliver(
                to(server),
                queue,
                connections=2,
                before_dot=before_dot,
                on_outcome=lambda m, o: outcomes.update({m.key: o}),
            )
        )
        await until(lambda: len(outcomes) == 5)
        queue.put(mail("f"))
        queue.close()
        await asyncio.wait_for(delivery, 90)
        await transport.close()
        got = {key: (o.result, str(o.reply)[:9], o.rule, o.dot_sent, o.mx_host) for key, o in sorted(outcomes.items())}
        assert got == {
            "a": (Result.DELIVERED, "250 2.0.0", None, True, "mx0.test"),
            "b": (Result.BOUNCED, "550 5.1.1", None, True, "mx0.test"),
            "c": (Result.DEFERRED, "451 4.7.1", None, True, "mx0.test"),
            "d": (Result.DEFERRED, "451 4.3.0", "lease-lost", False, "mx0.test"),
            "e": (Result.FAILED, "554 5.6.0", "bare-line-ending", False, "mx0.test"),
            "f": (Result.DELIVERED, "250 2.0.0", None, True, "mx0.test"),
        }


async def test_unused_sites_are_forgotten() -> None:
    async with SmtpServer() as server:
        pool = Pool("ours.test", timeouts=PATIENT, idle=0.05)
        for n in range(20):
            await deliver(replace(to(server), site=f"site{n}.test"), mails(1), pool=pool)
        await until(lambda: not pool._sites)
        await pool.close()
