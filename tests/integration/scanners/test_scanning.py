"""What becomes of a mail by what scanners say of it, or by their being away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest

from fakes.scanner_daemons import EICAR, Daemon
from inbound_smtp.checks.scanning import Scanned, ScansBeforeReply
from mailcore.flow import quarantine, scan
from mailcore.flow.parse import Reader
from mailcore.kit.errors import Unavailable
from mailcore.kit.metrics import QUEUE_DEPTH, SCANS
from mailcore.queue.bell import Ringer
from mailcore.scanners.base import Facts, Finding, Kind, Verdict, malware
from mailcore.scanners.clamd import Clamd
from mailcore.scanners.gtube import STRINGS
from mailcore.scanners.null import NullScanner
from mailcore.scanners.spamd import Spamd
from mailcore.scanners.wire import Address
from mailcore.store.arrivals import PENDING_ATTEMPTS
from mailcore.store.session import Store

from .harness import FACTS, TO, Desk, MakeDesk, mail

SPAM, VIRUS, DOUBT, DUBIOUS = b"buy now", b"a worm", b"perhaps so", b" too good"
"""With a space: an id never holds them."""


def spam_filter() -> NullScanner:
    return NullScanner(
        {
            SPAM: Finding("spamd", Verdict.SPAM, 13.0, ("BUY",)),
            DOUBT: Finding("spamd", Verdict.SPAM, 7.5, ("PERHAPS",)),
            STRINGS[0].encode(): Finding("spamd", Verdict.SPAM, 1000.0, ("GTUBE",)),
        },
        name="spamd",
        max_bytes=100_000,
    )


def virus_scanner() -> NullScanner:
    return NullScanner({VIRUS: Finding("clamd", Verdict.INFECTED, tags=("Worm",))}, name="clamd", kind=Kind.MALWARE)


def opinion() -> NullScanner:
    return NullScanner({DUBIOUS: Finding("ai", Verdict.SPAM, 9.0)}, name="ai", kind=Kind.OPINION)


# ---- what a domain wants ---------------------------------------------------------------------------------------------


async def test_b44_spam_is_said_and_lies_among_the_junk(make_desk: MakeDesk) -> None:
    desk = make_desk(spam_filter())
    bad, good = await desk.deliver(mail(SPAM)), await desk.deliver(mail())
    assert await desk.state(bad) == await desk.state(good) == "routed"
    assert await desk.flags(bad) == [["$Junk"]]
    assert await desk.flags(good) == [[]]
    assert await desk.told(bad) == ["spam", "junk"]
    assert await desk.told(good) == ["clean"]
    (found,) = (await desk.row(bad))["findings"]
    assert (found["scanner"], found["verdict"], found["score"], found["tags"]) == ("spamd", "spam", 13.0, ["BUY"])


@pytest.mark.parametrize(
    ("action", "state", "flags"),
    [
        ("tag", "routed", [[]]),
        ("junk", "routed", [["$Junk"]]),
        ("quarantine", "quarantined", []),
        ("reject", "quarantined", []),
    ],
)
async def test_b45_a_domain_says_what_is_done_with_spam(
    make_desk: MakeDesk, action: str, state: str, flags: list[list[str]]
) -> None:
    desk = make_desk(spam_filter())
    await desk.want(spam_action=action)
    id_ = await desk.deliver(mail(SPAM))
    assert (await desk.state(id_), await desk.flags(id_)) == (state, flags)
    assert (await desk.row(id_))["held_by"] == ("spamd" if state == "quarantined" else None)
    assert (await desk.told(id_))[0] == "spam"


async def test_b45_a_domain_says_how_many_points_are_spam(make_desk: MakeDesk) -> None:
    desk = make_desk(spam_filter())
    doubtful = await desk.deliver(mail(DOUBT))
    assert await desk.flags(doubtful) == [[]]  # 7.5 of 12
    await desk.want(spam_score=7.5)
    assert await desk.flags(await desk.deliver(mail(DOUBT))) == [["$Junk"]]
    await desk.want(spam_score=20.0)
    assert await desk.flags(await desk.deliver(mail(SPAM))) == [[]]


async def test_routes_ask_for_verdicts_and_points(make_desk: MakeDesk, admin: asyncpg.Connection) -> None:
    desk = make_desk(spam_filter(), virus_scanner())
    for place, (match, to) in enumerate(
        [({"verdict": ["unsure"]}, "unsure"), ({"verdict": ["spam"], "score": {"min": 13}}, "spam")]
    ):
        await admin.execute(
            "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES (gen_random_uuid(), $1, $2, $3, $4, $5)",
            *(desk.org, place, to, match, [{"type": "store", "mailbox": f"{to}@postroom.test"}]),
        )
    for text, box in ((DOUBT, "unsure"), (SPAM, "spam"), (b"Hello", "support")):
        id_ = await desk.deliver(mail(text))
        boxes = await admin.fetch(
            "SELECT address FROM messages m JOIN mailboxes b ON b.id = m.mailbox_id WHERE arrival_id = $1", id_
        )
        assert [row["address"] for row in boxes] == [f"{box}@postroom.test"]


@pytest.mark.parametrize(
    ("action", "state"), [("tag", "routed"), ("quarantine", "quarantined"), ("reject", "quarantined")]
)
async def test_d23_infected_mail_is_held_unless_its_domain_only_wants_to_know(
    make_desk: MakeDesk, action: str, state: str
) -> None:
    desk = make_desk(spam_filter(), virus_scanner())
    await desk.want(malware_action=action)
    id_ = await desk.deliver(mail(VIRUS))
    assert await desk.state(id_) == state
    row = await desk.row(id_)
    assert malware(row["findings"]) == "infected"
    assert row["held_by"] == ("clamd" if state == "quarantined" else None)
    assert malware((await desk.row(await desk.deliver(mail())))["findings"]) == "clean"


# ---- GTUBE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("string", range(len(STRINGS)))
@pytest.mark.parametrize("scanners", ["none", "one"])
async def test_b47_gtube_is_spam_whoever_is_asked(make_desk: MakeDesk, string: int, scanners: str) -> None:
    desk = make_desk(*([virus_scanner()] if scanners == "one" else []))
    id_ = await desk.deliver(mail(STRINGS[string].encode()))
    assert await desk.flags(id_) == [["$Junk"]]
    assert (await desk.row(id_))["findings"][0]["reason"] == "gtube"
    near = await desk.deliver(mail(STRINGS[string][:-1].encode()))
    assert await desk.flags(near) == [[]]


async def test_b47_gtube_in_base64_is_found_too(make_desk: MakeDesk) -> None:
    import base64

    desk = make_desk()
    raw = b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(STRINGS[0].encode()).replace(b"\n", b"\r\n")
    assert await desk.flags(await desk.deliver(raw)) == [["$Junk"]]


async def test_where_no_scanner_is_on_nothing_is_asked(store: Store) -> None:
    """No statement, no task: the mail is looked at for one string."""
    from mailcore.flow.in_hand import InHand
    from mailcore.mime.parse import Message
    from mailcore.store.arrivals import Stored

    scans = scan.Scans(None)  # type: ignore[arg-type]
    raw = mail()
    row = Stored(*[None] * 4, "", (), {}, "received", len(raw), raw, None, None, None)  # type: ignore[arg-type]
    hand = InHand(row, raw, Message(raw).summary())
    await scans.look(hand)
    assert (hand.findings, hand.decisions, hand.verdicts) == ([], [], [])


# ---- B-46: SpamAssassin says ham, something in between, nothing; the second opinion says ham, spam, nothing -----------


@pytest.mark.parametrize("fails", ["closed", "open"])
@pytest.mark.parametrize("said", ["ham", "spam", "nothing"])
@pytest.mark.parametrize("first", ["ham", "unsure", "away"])
async def test_b46_matrix(make_desk: MakeDesk, first: str, said: str, fails: str) -> None:
    spamd, ai = spam_filter(), opinion()
    desk = make_desk(spamd, ai, opens=(spamd, ai) if fails == "open" else (ai,))
    spamd.away, ai.away = first == "away", said == "nothing"
    text = (DOUBT if first == "unsure" else b"Hello") + (DUBIOUS if said == "spam" else b"")
    id_ = await desk.deliver(mail(text))
    asked = len(ai.scanned)
    assert asked == (0 if first == "ham" else 1)
    waits = first == "away" and said == "nothing" and fails == "closed"
    assert await desk.state(id_) == ("pending" if waits else "routed")
    junk = said == "spam" and first != "ham"
    assert await desk.flags(id_) == ([] if waits else [["$Junk"] if junk else []])
    if first == "away" and not waits:
        assert "not scanned" in await desk.told(id_)
        assert "goes on without it" in await desk.reasons(id_)


async def test_b46_a_second_opinion_is_not_asked_about_what_is_spam(make_desk: MakeDesk) -> None:
    ai = opinion()
    desk = make_desk(spam_filter(), ai)
    await desk.deliver(mail(SPAM))
    assert ai.scanned == []
    await desk.deliver(mail(DOUBT))
    (facts,) = ai.scanned
    assert [(one.scanner, one.score) for one in facts.findings] == [("spamd", 7.5)]


# ---- away ------------------------------------------------------------------------------------------------------------


async def test_c6_mail_waits_for_a_scanner_that_is_away_and_goes_on_by_itself(
    make_desk: MakeDesk, admin: asyncpg.Connection
) -> None:
    spamd, clamd = spam_filter(), virus_scanner()
    desk = make_desk(spamd, clamd)
    clamd.away = True
    good, bad = await desk.deliver(mail()), await desk.deliver(mail(VIRUS))
    for id_ in (good, bad):
        assert await desk.state(id_) == "pending"
        assert await desk.told(id_) == ["clean", "pending"]
        row = await desk.row(id_)
        assert (row["pending"], row["routed_at"]) == ("clamd", None)
        assert row["pending_at"] is not None
    since = (await desk.row(good))["pending_at"]
    await desk.again()
    assert await desk.told(good) == ["clean", "pending"], "said once, however often it is tried"
    assert (await desk.row(good))["pending_at"] == since
    assert len(spamd.scanned) == 2, "who has answered is not asked again"
    due = await admin.fetchval("SELECT min(due_at) > now() FROM arrival_queue")
    assert due, "it waits before it is tried again"
    clamd.away = False
    await desk.again()
    assert (await desk.state(good), await desk.state(bad)) == ("routed", "quarantined")
    assert await desk.told(good) == ["clean", "pending", "clean"]
    assert await desk.told(bad) == ["clean", "pending", "infected"]
    assert [one["verdict"] for one in (await desk.row(bad))["findings"]] == ["clean", "infected"]
    assert (await desk.row(good))["pending"] is None
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


async def test_c6_nobody_has_to_let_pending_mail_go_on(make_desk: MakeDesk) -> None:
    clamd = virus_scanner()
    desk = make_desk(clamd, again=0.05)
    clamd.away = True
    id_ = await desk.deliver(mail())
    assert QUEUE_DEPTH.labels("arrivals_pending")._value.get() == 1
    clamd.away = False
    async with asyncio.timeout(60):
        while await desk.state(id_) != "routed":
            await asyncio.sleep(0.02)
            await desk.route()
    assert QUEUE_DEPTH.labels("arrivals_pending")._value.get() == 0


async def test_c6_where_it_is_set_so_mail_goes_on_unscanned_and_that_is_said(make_desk: MakeDesk) -> None:
    clamd = virus_scanner()
    desk = make_desk(clamd, opens=(clamd,))
    clamd.away = True
    id_ = await desk.deliver(mail(VIRUS))
    assert await desk.state(id_) == "routed"
    assert await desk.told(id_) == ["not scanned"]
    assert "fail open" in await desk.reasons(id_)
    assert malware((await desk.row(id_))["findings"]) == "error"


async def test_c6_infected_mail_is_held_though_the_spam_filter_is_away(make_desk: MakeDesk) -> None:
    spamd, clamd = spam_filter(), virus_scanner()
    desk = make_desk(spamd, clamd)
    spamd.away = True
    assert await desk.state(await desk.deliver(mail(VIRUS))) == "quarantined"


async def test_c6_a_scanner_that_fails_again_and_again_is_left_alone_for_a_while(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "REST_SECONDS", 60.0)
    clamd = virus_scanner()
    desk = make_desk(clamd)
    clamd.away = True
    for _ in range(scan.REST_AFTER + 3):
        await desk.deliver(mail())
    assert len(clamd.scanned) == scan.REST_AFTER
    clamd.away = False
    await desk.again()
    assert len(clamd.scanned) == scan.REST_AFTER
    monkeypatch.setattr(scan, "REST_SECONDS", 0.0)
    for one in desk.scans._first:
        one._rests_until = 0.0
    await desk.again()
    assert len(clamd.scanned) == 2 * scan.REST_AFTER + 3
    assert await desk.admin.fetchval("SELECT count(*) FROM arrivals WHERE state <> 'routed'") == 0


async def test_c6_mail_that_waits_for_ever_stops_no_other(make_desk: MakeDesk, admin: asyncpg.Connection) -> None:
    """Its tries would not fit their column one day, and no batch with it could be claimed."""
    clamd = virus_scanner()
    desk = make_desk(clamd)
    clamd.away = True
    id_ = await desk.deliver(mail())
    for _ in range(8):
        await desk.again()
    assert await desk.state(id_) == "pending"
    assert await admin.fetchval("SELECT attempt FROM arrival_queue") == PENDING_ATTEMPTS
    seconds = await admin.fetchval("SELECT extract(epoch FROM due_at - now())::float8 FROM arrival_queue")
    assert 7 * 60 < seconds <= 8 * 60


async def test_c6_mail_that_a_scanner_never_answers_about_is_held(
    make_desk: MakeDesk, admin: asyncpg.Connection
) -> None:
    """It may have been made for that. While the scanner answers for nobody, it goes on waiting."""

    class Chokes(NullScanner):
        async def scan(self, raw: bytes, facts: Facts) -> Finding:
            if b"a knot" in raw:
                raise Unavailable("It choked.")
            return await super().scan(raw, facts)

    desk = make_desk(Chokes(name="clamd", kind=Kind.MALWARE))
    id_ = await desk.deliver(mail(b"a knot"))
    await admin.execute("UPDATE arrivals SET pending_at = now() - interval '2 hours'")
    await desk.again()
    assert await desk.state(id_) == "pending"
    assert await desk.state(await desk.deliver(mail())) == "routed"
    await desk.again()
    assert await desk.state(id_) == "quarantined"
    assert "clamd answers for other mail, and has no answer for this one. It choked." in await desk.reasons(id_)
    assert await admin.fetchval("SELECT count(*) FROM arrival_queue") == 0


async def test_c6_a_second_opinion_that_fails_again_and_again_is_left_alone_too(
    make_desk: MakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises nothing: what it was shown stands in its finding even so. Each mail would wait for its time to be over."""

    class Silent(NullScanner):
        async def scan(self, raw: bytes, facts: Facts) -> Finding:
            self.scanned.append(facts)
            return Finding("ai", Verdict.UNAVAILABLE, detail="No answer. It was shown the header.")

    monkeypatch.setattr(scan, "REST_SECONDS", 60.0)
    ai = Silent(name="ai", kind=Kind.OPINION)
    desk = make_desk(spam_filter(), ai, opens=(ai,))
    ids = [await desk.deliver(mail(DOUBT)) for _ in range(scan.REST_AFTER + 3)]
    assert len(ai.scanned) == scan.REST_AFTER
    assert {await desk.state(id_) for id_ in ids} == {"routed"}
    assert "It was shown the header." in await desk.reasons(ids[0])


async def test_what_is_too_large_for_a_scanner_goes_on_and_that_is_said(make_desk: MakeDesk) -> None:
    spamd = spam_filter()
    desk = make_desk(spamd)
    id_ = await desk.deliver(mail(SPAM + b"x" * 70 + b"\r\n" + b"y" * 70 * 2_000))
    assert await desk.state(id_) == "routed"
    assert await desk.told(id_) == ["not scanned"]
    assert "100000 at most" in await desk.reasons(id_)
    assert spamd.scanned == []


async def test_a_scanner_that_breaks_is_away_and_breaks_nothing(make_desk: MakeDesk) -> None:
    class Breaks(NullScanner):
        async def scan(self, raw: bytes, facts: object) -> Finding:
            raise ZeroDivisionError

    desk = make_desk(Breaks(name="broken"))
    assert await desk.state(await desk.deliver(mail())) == "pending"


async def test_so_many_mails_are_scanned_at_a_time(make_desk: MakeDesk) -> None:
    clamd = virus_scanner()
    now = most = 0
    ask = clamd.scan

    async def counted(raw: bytes, facts: object) -> Finding:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return await ask(raw, facts)  # type: ignore[arg-type]

    clamd.scan = counted  # type: ignore[assignment]
    desk = make_desk(clamd, at_once=3)
    for _ in range(12):
        await desk.take(mail())
    await desk.route()
    assert most == 3
    assert len(clamd.scanned) == 12


# ---- released --------------------------------------------------------------------------------------------------------


async def test_what_is_released_is_not_held_again_nor_scanned(
    make_desk: MakeDesk, store: Store, ringer: Ringer
) -> None:
    clamd, spamd = virus_scanner(), spam_filter()
    desk = make_desk(clamd, spamd)
    id_ = await desk.deliver(mail(VIRUS + SPAM))
    assert await desk.state(id_) == "quarantined"
    assert await quarantine.release(store, ringer, desk.org, id_, by="a test")
    clamd.away = True
    await desk.route()
    assert await desk.state(id_) == "routed"
    assert await desk.flags(id_) == [[]], "somebody has looked at it: it is no junk"
    assert len(clamd.scanned) == 1
    assert malware((await desk.row(id_))["findings"]) == "infected"


async def test_pending_mail_can_be_let_go_on(make_desk: MakeDesk, store: Store, ringer: Ringer) -> None:
    clamd = virus_scanner()
    desk = make_desk(clamd)
    clamd.away = True
    id_ = await desk.deliver(mail())
    assert await desk.state(id_) == "pending"
    assert await quarantine.release(store, ringer, desk.org, id_, by="a test")
    await desk.route()
    assert await desk.state(id_) == "routed"
    assert await desk.told(id_) == ["pending", "not scanned"]
    assert not await quarantine.release(store, ringer, desk.org, id_, by="a test")


async def test_what_is_released_waits_for_no_scanner(make_desk: MakeDesk, store: Store, ringer: Ringer) -> None:
    """DMARC held it while the scanner was away."""
    clamd = virus_scanner()
    desk = make_desk(clamd)
    clamd.away = True
    id_ = await desk.take(mail())
    await desk.admin.execute("UPDATE arrivals SET auth = $2 WHERE id = $1", id_, _FAILS)
    await desk.want(dmarc_policy="quarantine")
    await desk.route()
    assert (await desk.row(id_))["held_by"] == "dmarc"
    assert await quarantine.release(store, ringer, desk.org, id_, by="a test")
    await desk.route()
    assert await desk.state(id_) == "routed"
    assert malware((await desk.row(id_))["findings"]) == "error"


_FAILS = {
    "dmarc": {
        "result": "fail",
        "policy": "reject",
        "policy_domain": "sender.example",
        "domain": "sender.example",
        "reason": "",
    },
    "dkim": [],
}


# ---- real daemons, and one that dies ---------------------------------------------------------------------------------


async def test_c6_real_scanners_find_what_they_are_for(make_desk: MakeDesk, spamd: Daemon, clamd: Daemon) -> None:
    desk = make_desk(
        Spamd(Address("127.0.0.1", spamd.port), seconds=60), Clamd(Address("127.0.0.1", clamd.port), seconds=60)
    )
    good = await desk.deliver(mail(b"The minutes of Tuesday are attached, as promised."))
    trial, virus = await desk.deliver(mail(STRINGS[0].encode())), await desk.deliver(mail(EICAR))
    assert (await desk.state(good), await desk.flags(good)) == ("routed", [[]])
    assert (await desk.state(trial), await desk.flags(trial)) == ("routed", [["$Junk"]])
    assert await desk.state(virus) == "quarantined"
    assert {one["scanner"]: one["verdict"] for one in (await desk.row(good))["findings"]} == {
        "spamd": "clean",
        "clamd": "clean",
    }


async def test_c6_a_scanner_killed_among_the_mail_loses_none(make_desk: MakeDesk, clamd: Daemon) -> None:
    desk = make_desk(Clamd(Address("127.0.0.1", clamd.port), seconds=60), at_once=4)
    ids: list[UUID] = []
    for n in range(60):
        ids.append(await desk.take(mail(EICAR if n % 10 == 3 else b"Hello")))
    before = SCANS.labels("clamd", "clean")._value.get()
    routing = asyncio.create_task(desk.route())
    try:
        async with asyncio.timeout(60):
            while SCANS.labels("clamd", "clean")._value.get() < before + 8:  # some have been scanned, most have not
                await asyncio.sleep(0)
        clamd.kill()
        await routing
        states = [await desk.state(id_) for id_ in ids]
        assert set(states) <= {"pending", "routed", "quarantined"}
        assert "pending" in states and len(set(states)) > 1
    finally:
        clamd.start()
    for one in desk.scans._first:
        one._rests_until = 0.0
    await desk.again()
    await desk.again()
    states = [await desk.state(id_) for id_ in ids]
    assert [n for n, state in enumerate(states) if state == "quarantined"] == [3, 13, 23, 33, 43, 53]
    assert states.count("routed") == 54
    assert await desk.admin.fetchval("SELECT count(*) FROM messages") == 54


# ---- before the reply ------------------------------------------------------------------------------------------------


@pytest.fixture
async def door(make_desk: MakeDesk, store: Store) -> AsyncIterator[Door]:
    """The session's question, and mail that goes on from there."""
    spamd, clamd = spam_filter(), virus_scanner()
    desk = make_desk(spamd, clamd)
    yield Door(desk, ScansBeforeReply(desk.scans, Reader()), spamd, clamd)


@dataclass
class Door:
    desk: Desk
    before: ScansBeforeReply
    spamd: NullScanner
    clamd: NullScanner

    async def ask(self, raw: bytes, *to: str) -> Scanned:
        return await self.before.ask(
            raw,
            source="192.0.2.7",
            mail_from="ann@sender.example",
            facts=FACTS,
            auth=None,
            tenants={self.desk.org: to or (TO,)},
        )


async def test_b45_a_domain_that_refuses_says_so_before_the_reply(door: Door) -> None:
    assert (await door.ask(mail(SPAM))) == Scanned()
    assert door.spamd.scanned == [], "nobody refuses: it is scanned when it has been taken"
    await door.desk.want(spam_action="reject", malware_action="reject")
    for bad, word in ((SPAM, "spam"), (VIRUS, "malware: Worm")):
        refused = (await door.ask(mail(bad))).refused
        assert refused is not None and (refused.code, refused.enhanced) == (550, "5.7.1")
        assert word in str(refused)
    await door.desk.want(malware_action="quarantine")
    assert (await door.ask(mail(VIRUS + SPAM))).refused is None
    assert door.before.needless({door.desk.org: [TO]}) is False
    await door.desk.want(spam_action="junk")
    await door.ask(mail())
    assert door.before.needless({door.desk.org: [TO]}) is True


async def test_what_was_found_before_the_reply_is_not_asked_again(door: Door) -> None:
    await door.desk.want(spam_action="reject")
    door.clamd.away = True
    raw = mail(DOUBT)
    scanned = await door.ask(raw)
    assert scanned.refused is None
    id_ = await door.desk.take(raw, scanned=scanned)
    door.clamd.away = False
    await door.desk.route()
    assert (len(door.spamd.scanned), len(door.clamd.scanned)) == (1, 2)
    assert await door.desk.told(id_) == ["unsure", "clean"]
    assert [one["verdict"] for one in (await door.desk.row(id_))["findings"]] == ["spam", "clean"]


async def test_b45_one_domain_that_takes_it_takes_it_for_all(
    door: Door, make_domain: Callable[[UUID, str], Awaitable[UUID]]
) -> None:
    await make_domain(door.desk.org, "second.test")
    await door.desk.want(spam_action="reject")
    raw = mail(SPAM)
    scanned = await door.ask(raw, TO, "bob@second.test")
    assert scanned.refused is None
    id_ = await door.desk.take(raw, TO, "bob@second.test", scanned=scanned)
    await door.desk.route()
    assert await door.desk.state(id_) == "quarantined"
    assert "had been taken" in (await door.desk.row(id_))["held_reason"]
