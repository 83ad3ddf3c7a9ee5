"""What the operator changes in pools, sources and warm-ups: one transaction each, and a decision that says so.

`now` None is the database's time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.flow.warmup import BY_OPERATOR, decide, resume
from mailcore.kit.errors import Invalid, NotFound
from mailcore.store import sources, waiting, warmups
from mailcore.store.session import Connection, Store
from mailcore.store.warmups import Decision, Warmup


@dataclass(frozen=True, slots=True)
class WarmupChange:
    """What is None stays."""

    schedule: Sequence[int] | None = None
    step: int | None = None
    """From 1."""
    warm: bool | None = None
    """True: no cap from now on. False: it is warmed up (again)."""
    paused: bool | None = None


async def add_source(
    store: Store, values: dict[str, Any], *, schedule: Sequence[int], warm: bool, now: datetime | None = None
) -> UUID:
    """With its warm-up, whose first day begins. Raises NotFound (the pool), Conflict (the address is there)."""
    async with store.worker() as db:
        id_ = await sources.add(db, values)
        await _begin(
            db, await warmups.add(db, source_id=id_, schedule=schedule, warm=warm), now or await warmups.clock(db)
        )
    return id_


async def add_domain(store: Store, domain: str, *, schedule: Sequence[int], now: datetime | None = None) -> UUID:
    """Warms a sending domain up. Raises Conflict."""
    async with store.worker() as db:
        id_ = await warmups.add(db, domain=domain, schedule=schedule, warm=False)
        await _begin(db, id_, now or await warmups.clock(db))
    return id_


async def _begin(db: Connection, id_: UUID, now: datetime) -> None:
    first = decide(await warmups.lock(db, id_), None, None, now)
    if first is not None:
        await warmups.write(db, [first])


async def change_source(
    store: Store, id_: UUID, values: dict[str, Any], change: WarmupChange, *, now: datetime | None = None
) -> None:
    """`values`: columns of `sources`. Raises NotFound, Conflict, Invalid."""
    async with store.worker() as db:
        now = now or await warmups.clock(db)
        if change.paused is not None:
            values = {**values, "paused_at": now if change.paused else None}
        await sources.change(db, id_, values)
        row = await sources.source(db, id_)
        if row is None:
            raise NotFound("Source not found")
        warmup = await warmups.lock(db, row["warmup_id"])
        if change.paused:  # the source as such: its warm-up stays what it is
            await warmups.note(db, warmup.id, "paused", warmup.step, BY_OPERATOR)
        elif change.paused is False and warmup.state != "paused":
            await warmups.note(db, warmup.id, "resumed", warmup.step, BY_OPERATOR)
        await _change(db, warmup, change, now, pause=False)


async def change_domain(store: Store, id_: UUID, change: WarmupChange, *, now: datetime | None = None) -> None:
    """Raises NotFound, also for the warm-up of a source; Invalid."""
    async with store.worker() as db:
        warmup = await warmups.lock(db, id_)
        if warmup.domain is None:
            raise NotFound("Warm-up not found")
        await _change(db, warmup, change, now or await warmups.clock(db), pause=bool(change.paused))


async def _change(db: Connection, warmup: Warmup, change: WarmupChange, now: datetime, *, pause: bool) -> None:
    schedule = list(change.schedule or warmup.schedule)
    if change.step is not None and not 1 <= change.step <= len(schedule):
        raise Invalid(f"The schedule has {len(schedule)} steps: `step` is one of 1 to {len(schedule)}.", field="step")
    step = min(warmup.step, len(schedule) - 1) if change.step is None else change.step - 1
    if change.schedule is not None:
        await warmups.set_schedule(db, warmup.id, schedule)
    today, by = now.date(), BY_OPERATOR
    decided: Decision | None = None
    if change.warm:
        decided = Decision(warmup.id, "warm", "warm", step, today, None, 0, None, None, f"{by} There is no cap.")
    elif change.warm is False and warmup.state == "warm":
        step = 0 if change.step is None else step
        why = f"{by} It is warmed up again."
        decided = Decision(warmup.id, "began", "warming", step, today, schedule[step], 0, None, None, why, excuse=True)
    elif pause:
        decided = Decision(*(warmup.id, "paused", "paused", step, today, schedule[step], warmup.pauses, now, None, by))
    elif change.paused is False and warmup.state == "paused":
        # what bad signs paused goes on one step lower, unless the operator says where
        lower = change.step is None and not warmup.why.startswith(BY_OPERATOR)
        changed = dataclasses.replace(warmup, schedule=schedule, step=step)
        decided = resume(changed, now, by, step=None if lower else step)
    elif warmup.state != "warm" and (change.schedule is not None or change.step is not None):
        why = f"{by} Step {step + 1} of {len(schedule)}: {schedule[step]} mails a day."
        kept = (warmup.pauses, warmup.paused_at, warmup.paused_until)
        decided = Decision(warmup.id, "changed", warmup.state, step, today, schedule[step], *kept, why)
    if decided is not None:
        await warmups.write(db, [decided])


async def remove_source(store: Store, id_: UUID) -> None:
    """Mail under way on it ends; its history goes with it. Raises NotFound."""
    async with store.worker() as db:
        await sources.remove(db, id_)


async def remove_domain(store: Store, id_: UUID) -> None:
    """The domain has no cap of its own from then on: what waited for it is due. Raises NotFound."""
    async with store.worker() as db:
        await warmups.remove(db, id_)
        await waiting.let_go(db, id_)
