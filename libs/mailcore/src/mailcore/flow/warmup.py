"""Warm-up on autopilot: a new address, or a new sending domain, sends little at first and more each day, as long as nobody minds.

1. `signal`    what an outcome says about us: delivered, deferred, blocked, bounced
2. `decide`    a day begins (the cap grows, or holds), a pause begins for bad signs, a pause ends
3. `turn`      that for all, in one transaction; complaints are counted; mail that waited is called when there is room
4. `lease`     shares of today's caps for a process that sends, many mails at a time; `report` tells what became of them
5. `overflow`  mail for which there is no room today; without another way out it waits (flow.waiting)
6. `explain`   all this in a sentence, for the operator

Days are UTC. Limits are settings (`WARMUP__…`); docs/sources.md has all the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from mailcore.dsn.classify import classify
from mailcore.dsn.rules import Category
from mailcore.kit.log import logger
from mailcore.kit.settings import WarmUp
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store import waiting, warmups
from mailcore.store.deliveries import Key, Leased
from mailcore.store.session import Store
from mailcore.store.sources import Known, KnownPool, KnownWarmup
from mailcore.store.waiting import OTHERS_TURN, READERS_TURN, TRANSACTIONAL_TURN
from mailcore.store.warmups import Ask, Count, Day, Decision, Warmup

log = logger(__name__)

AS_SHIPPED = WarmUp()
BLOCKED_LEAST, DEFERRED_LEAST, BOUNCED_LEAST, COMPLAINED_LEAST = 3, 10, 10, 2
"""Fewer decide nothing, whatever share they are."""
STRAINED = 0.5
"""From this part of a limit on the cap does not grow."""
MAX_PAUSES = 3
"""The pause after so many, with no step between, ends only by the operator."""

BY_OPERATOR = "By the operator."
"""How the reason of what an operator did begins."""

EARLY_HOURS = 4
"""Broadcasts may use this much of the day's cap at once, in hours of 24, and the rest as the day goes on."""
CALL_SECONDS = 10.0
"""Between two calls of mail that waits for one pool."""
MAX_CALLED = 5_000
"""Mails that one call makes due, where there is no cap."""


# ---- 1. signals ------------------------------------------------------------------------------------------------------

_REFUSED_BEFORE_MAIL = ("greeting-refused", "ehlo-refused")
_SLOWS = (Category.POLICY, Category.SOFT)


def signal(outcome: Outcome, *, of_domain: bool = False) -> str | None:
    """delivered, deferred, blocked or bounced, as `warmup_days` counts them of an address, or of a sending domain: what is said of
    the one alone says nothing about the other's mail. None: it says nothing about us."""
    if outcome.result is Result.DELIVERED:
        return "delivered"
    reply = outcome.reply
    if reply is None or outcome.rule not in (None, *_REFUSED_BEFORE_MAIL):
        return None  # our own words: no peer has judged us
    kind = classify(reply)
    if kind.rule == "greylisted":
        return None  # every stranger is
    its = (Category.BLOCK, Category.DOMAIN) if of_domain else (Category.BLOCK,)
    if kind.category in its and (reply.permanent or kind.rule.startswith("list-")):
        return "blocked"
    if outcome.result is Result.DEFERRED:
        return "deferred" if kind.category in (*its, *_SLOWS) else None
    return "bounced" if kind.hard else None


# ---- 2. decide -------------------------------------------------------------------------------------------------------


def decide(
    warmup: Warmup, last: Day | None, before: Day | None, now: datetime, limits: WarmUp = AS_SHIPPED
) -> Decision | None:
    """`last` and `before`: the last two days it began. None: all stays as it is."""
    today = now.astimezone(UTC).date()
    if warmup.state == "paused" and warmup.paused_until is not None and warmup.paused_until <= now:
        return resume(warmup, now, "The pause is over.")
    if warmup.day is None or warmup.day < today:
        return _begin_day(warmup, last, before, today, limits)
    if warmup.state == "warming" and last is not None and (why := _bad(last, before, 1.0, limits)):
        return _pause(warmup, now, why, limits)
    return None


def _begin_day(warmup: Warmup, last: Day | None, before: Day | None, today: date, limits: WarmUp) -> Decision:
    if warmup.state != "warming" or last is None or last.cap is None:
        return _as_it_is(warmup, today)
    strain = _bad(last, before, STRAINED, limits)
    if strain:
        return _as_it_is(warmup, today, "held", f"The cap does not grow: {strain}")
    need = math.ceil(limits.used_share * last.cap)
    if last.attempts < need:
        why = f"The cap does not grow: {last.attempts} of {last.cap} mails left, and {need} must for the next step."
        return _as_it_is(warmup, today, "held", why)
    step = warmup.step + 1
    if step >= len(warmup.schedule):
        why = f"Warm: {last.attempts} of {last.cap} mails left on the last step without bad signs. There is no cap any more."
        return Decision(warmup.id, "warm", "warm", warmup.step, today, None, 0, None, None, why)
    cap = warmup.schedule[step]
    why = f"{last.attempts} of {last.cap} mails left without bad signs: from now on {cap} a day."
    return Decision(warmup.id, "grew", "warming", step, today, cap, 0, None, None, why)


def _as_it_is(warmup: Warmup, today: date, what: str | None = None, why: str | None = None) -> Decision:
    return Decision(
        warmup.id,
        what,
        warmup.state,
        warmup.step,
        today,
        _cap(warmup.state, warmup.schedule, warmup.step),
        warmup.pauses,
        warmup.paused_at,
        warmup.paused_until,
        warmup.why if why is None else why,
    )


def _cap(state: str, schedule: Sequence[int], step: int) -> int | None:
    return None if state == "warm" else schedule[min(step, len(schedule) - 1)]


def _bad(day: Day, before: Day | None, part: float, limits: WarmUp) -> str | None:
    """Which sign is at or past this part of its limit, in words; the worst first."""
    counts = {
        name: getattr(day, name) - day.excused.get(name, 0)
        for name in ("attempts", "delivered", "deferred", "blocked", "bounced", "complaints")
    }
    attempts = max(1, counts["attempts"])
    # who complains today got the mail today or yesterday
    delivered = max(1, counts["delivered"], before.delivered if before else 0)
    words = f" The last words were: {day.last_words}" if day.last_words else ""
    for name, of, share, least, said in (
        (
            "blocked",
            attempts,
            limits.blocked_limit,
            BLOCKED_LEAST,
            f"attempts were refused because of who sends.{words}",
        ),
        ("complaints", delivered, limits.complaint_limit, COMPLAINED_LEAST, "delivered mails were complained about."),
        ("deferred", attempts, limits.deferred_limit, DEFERRED_LEAST, f"attempts were put off by peers.{words}"),
        ("bounced", attempts, limits.bounced_limit, BOUNCED_LEAST, "recipients do not exist."),
    ):
        if counts[name] >= max(1, least * part) and counts[name] >= share * part * of:
            return f"{counts[name]} of {max(of, counts[name])} {said}"
    return None


def _pause(warmup: Warmup, now: datetime, why: str, limits: WarmUp) -> Decision:
    pauses = warmup.pauses + 1
    until = now + timedelta(hours=limits.pause_hours) * 2 ** (pauses - 1) if pauses <= MAX_PAUSES else None
    cap = _cap("paused", warmup.schedule, warmup.step)
    return Decision(warmup.id, "paused", "paused", warmup.step, now.date(), cap, pauses, now, until, why)


def resume(warmup: Warmup, now: datetime, why: str, *, step: int | None = None) -> Decision:
    """A step lower than before, unless told; what was counted today is forgiven."""
    step = max(0, warmup.step - 1) if step is None else step
    cap = warmup.schedule[step]
    said = f"{why} It goes on with {cap} mails a day."
    return Decision(
        warmup.id, "resumed", "warming", step, now.date(), cap, warmup.pauses, None, None, said, excuse=True
    )


# ---- 3. turn ---------------------------------------------------------------------------------------------------------


async def turn(store: Store, now: datetime, limits: WarmUp = AS_SHIPPED) -> list[Decision]:
    """What is to be decided just now. Several processes may do this at the same time: each thing is decided once."""
    decided: list[Decision] = []
    async with store.worker() as db:
        if await warmups.due(db, now.date(), now):
            found = [decide(*each, now, limits) for each in await warmups.open_(db)]
            decided = [each for each in found if each is not None]
            await warmups.write(db, decided)
    for each in decided:
        if each.what is not None:
            say = log.warning if each.what == "paused" else log.info
            say("warm-up", id=str(each.id), what=each.what, step=each.step, why=each.why)
    return decided


async def count_complaints(store: Store, now: datetime) -> None:
    """And what is too old to tell anybody is deleted."""
    async with store.worker() as db:
        await warmups.count_complaints(db, datetime.combine(now.date(), time(), UTC))
        await warmups.forget(db, now.date())


async def call_waiting(store: Store, known: Known, now: datetime) -> int:
    """Mail that waits is due again where there is room, transactional mail and readers first. Returns how many."""
    rooms = {pool.id: _room_of(pool, now) for pool in known.pools}
    rooms |= {warmup.id: room_of(warmup, now) for _, warmup in known.domains}
    rooms = {id_: room for id_, room in rooms.items() if room[0] > 0}
    if not rooms:
        return 0
    called = 0
    async with store.worker() as db:
        for id_ in await waiting.waited_for(db, rooms):
            if await warmups.claim_call(db, id_, now, CALL_SECONDS):
                of_this = 0
                for turn in (TRANSACTIONAL_TURN, READERS_TURN, OTHERS_TURN):
                    room = rooms[id_][turn != TRANSACTIONAL_TURN] - of_this
                    of_this += await waiting.call(db, id_, turn, room) if room > 0 else 0
                called += of_this
    return called


def room_of(warmup: KnownWarmup, now: datetime) -> tuple[int, int]:
    """Mails it may send from now on, today: transactional ones, broadcasts."""
    if warmup.state == "paused":
        return 0, 0
    if warmup.cap is None:
        return (MAX_CALLED, MAX_CALLED) if warmup.begun or warmup.state == "warm" else (0, 0)
    return (
        min(MAX_CALLED, max(0, warmup.cap - warmup.leased)),
        min(MAX_CALLED, max(0, math.ceil(warmup.cap * pace(now)) - warmup.leased)),
    )


def _room_of(pool: KnownPool, now: datetime) -> tuple[int, int]:
    if not pool.sources:
        return MAX_CALLED, MAX_CALLED  # it carries nothing any more: its mail leaves as that of no pool
    rooms = [room_of(each.warmup, now) for each in pool.sources if not each.paused and not each.unbound]
    return sum(room[0] for room in rooms), sum(room[1] for room in rooms)


def pace(now: datetime) -> float:
    """The part of a day's cap that broadcasts may have used by now: not all of it at midnight, and none that a password
    reset of the afternoon will need."""
    now = now.astimezone(UTC)
    return min(1.0, (now.hour + now.minute / 60 + EARLY_HOURS) / 24)


# ---- 4. shares -------------------------------------------------------------------------------------------------------


async def lease(store: Store, asks: Sequence[Ask], now: datetime, limits: WarmUp = AS_SHIPPED) -> dict[UUID, int]:
    """Of today's caps, as `warmups.lease`; a day that has not begun begins with it. Raises Unavailable."""
    granted = await _lease(store, asks, now.date())
    missing = [ask for ask in asks if ask.warmup_id not in granted]
    if missing:
        await turn(store, now, limits)
        granted |= await _lease(store, missing, now.date())
    return granted


async def _lease(store: Store, asks: Sequence[Ask], day: date) -> dict[UUID, int]:
    async with store.worker() as db:
        return await warmups.lease(db, day, asks)


async def report(store: Store, counts: Sequence[tuple[UUID, date, Count]]) -> None:
    """Raises Unavailable; then nothing of it is counted."""
    async with store.worker() as db:
        await warmups.report(db, counts)


# ---- 5. no room ------------------------------------------------------------------------------------------------------


async def overflow(store: Store, rows: Collection[Leased], route: int) -> set[Key]:
    """Those that take the route now; see `waiting.overflow`. Raises Unavailable."""
    async with store.worker() as db:
        return await waiting.overflow(db, list(rows), route)


async def readers(store: Store, rows: Collection[Leased], now: datetime) -> set[Key]:
    """Which of them go to somebody who reads. Raises Unavailable."""
    async with store.worker() as db:
        return await waiting.readers(db, list(rows), now)


# ---- 6. explain ------------------------------------------------------------------------------------------------------


def explain(warmup: Warmup, today: Day | None, now: datetime, limits: WarmUp = AS_SHIPPED) -> str:
    """Where it stands and what comes next."""
    steps = len(warmup.schedule)
    if warmup.state == "warm":
        return f"Warm: no cap. {today.attempts if today else 0} mails left today."
    if warmup.state == "paused":
        until = (
            "until you resume it" if warmup.paused_until is None else f"until {warmup.paused_until:%Y-%m-%d %H:%M} UTC"
        )
        step = warmup.step if warmup.why.startswith(BY_OPERATOR) else max(0, warmup.step - 1)
        return f"Paused {until}: {warmup.why} It then goes on with {warmup.schedule[step]} mails a day."
    cap, sent = warmup.schedule[warmup.step], today.attempts if today else 0
    said = f"Step {warmup.step + 1} of {steps}: at most {cap} mails today, {sent} left so far."
    if today is not None and (strain := _bad(today, None, STRAINED, limits)):
        return f"{said} Tomorrow the cap stays, for there are bad signs: {strain}"
    following = "there is no cap" if warmup.step + 1 >= steps else f"the cap is {warmup.schedule[warmup.step + 1]}"
    need = math.ceil(limits.used_share * cap)
    if sent >= need:
        return f"{said} Tomorrow {following}."
    return f"{said} When {need} have left, tomorrow {following}; else it stays."
