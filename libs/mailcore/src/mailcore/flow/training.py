"""People's word on spam, taught to the scanners that can learn.

    report    a person says of a message that it is spam, or is not: it is marked, and its row waits to be learned
    teach     the chore: each scanner that learns is told; what each answered stands in the row
    watch     what nobody rang for, and what a process did not live to finish

A scanner that is away is told later, by the row's due time. Twice teaches once: scanners know what they have learned. What they
know is the installation's, hence a limit a day on what one organization teaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.blob.base import BlobStore
from mailcore.flow.parse import raw_of
from mailcore.kit.errors import Exceeded, MailError, NotFound, Unavailable
from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import TRAIN
from mailcore.scanners.base import Learns
from mailcore.store import trainings
from mailcore.store.session import Store
from mailcore.store.trainings import Due, Taught

log = logger(__name__)

PER_DAY = 500
DELAYS = (120.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0)
"""Seconds until a row that was claimed is due again; after the last it has failed."""
BATCH, AT_ONCE = 8, 4
WATCH_SECONDS = 20.0
SECONDS = 60.0
"""How long one scanner may take to learn one mail: a batch is done before its rows are due again."""


async def report(
    store: Store, ringer: Ringer, org_id: UUID, message_id: UUID, *, spam: bool, by: UUID | None, per_day: int = PER_DAY
) -> asyncpg.Record | None:
    """None: there is no such message. `by`: the person. Raises Exceeded, Unavailable."""
    async with store.tenant(org_id) as db:
        before = await trainings.find(db, message_id)
        changes = before is None or before["spam"] != spam or before["state"] == "failed"
        if changes and await trainings.reported_since(db, datetime.now(UTC) - timedelta(days=1)) >= per_day:
            raise Exceeded(
                f"{per_day} messages were reported within a day, which is the most. Report others tomorrow.",
                name="rate_limit_exceeded",
                retry_after=3600,
            )
        row = await trainings.report(db, message_id, spam=spam, by=by)
    if row is not None and row["due_at"] is not None:
        await ringer.enqueue(TRAIN, str(message_id))
    return row


@dataclass(frozen=True, slots=True)
class Pupil:
    """A scanner that learns."""

    name: str
    scanner: Learns
    max_bytes: int
    """Of larger mails it learns nothing; 0: any size."""


class Trainings:
    """One a process."""

    def __init__(self, store: Store, blobs: BlobStore, pupils: Sequence[Pupil]) -> None:
        self._store = store
        self._blobs = blobs
        self._pupils = pupils
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def teach(self, message_id: str) -> None:
        """Raises Unavailable."""
        async with self._store.worker() as db:
            due = await trainings.claim(db, 1, DELAYS, only=UUID(message_id))
        for one in due:
            await self._teach(one)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.sweep():
                    pass
            except MailError as error:
                log.warning("what people reported is taught later", error=error.public)
            except Exception as error:
                log.error("what people reported could not be taught", exc_info=error)
            await asyncio.sleep(WATCH_SECONDS)

    async def sweep(self) -> int:
        """What is due now, up to a batch; how many. Raises Unavailable."""
        async with self._store.worker() as db:
            due = await trainings.claim(db, BATCH, DELAYS)
        await asyncio.gather(*map(self._teach, due))
        return len(due)

    async def _teach(self, due: Due) -> None:
        async with self._slots:
            taught = await self._told(due)
        async with self._store.worker() as db:
            await trainings.settle(db, taught)

    async def _told(self, due: Due) -> Taught:
        """Raises Unavailable when the mail cannot be read just now."""
        if not self._pupils:
            return _ended(due, "skipped", "No scanner here learns.")
        if due.gone:
            return _ended(due, "skipped", "The mail itself is no longer kept.")
        try:
            raw = await raw_of(self._blobs, due.raw, due.raw_blob)
        except NotFound:
            return _ended(due, "skipped", "The mail itself is no longer kept.")
        answers = {one["scanner"]: one for one in due.learned if one.get("error") is None}
        asked = [pupil for pupil in self._pupils if pupil.name not in answers]
        for told in await asyncio.gather(*(_learn(pupil, raw, spam=due.spam) for pupil in asked)):
            answers[str(told["scanner"])] = dict(told)
        learned = list(answers.values())
        away = [one for one in learned if one.get("error")]
        if not away:
            return Taught(due.message_id, due.reports, "done", None, learned)
        why = " ".join(f"{one['scanner']}: {one['error']}" for one in away)
        state = "waiting" if due.attempt < len(DELAYS) else "failed"
        return Taught(due.message_id, due.reports, state, why, learned)


async def _learn(pupil: Pupil, raw: bytes, *, spam: bool) -> Mapping[str, Any]:
    """`learned`: False: it knew, or does not look at such mail, and `note` says so. `error`: it is to be told again."""
    if pupil.max_bytes and len(raw) > pupil.max_bytes:
        return {"scanner": pupil.name, "learned": False, "note": "The mail is larger than what it looks at."}
    try:
        async with asyncio.timeout(SECONDS):
            learned = await pupil.scanner.learn(raw, spam=spam)
    except Unavailable as error:
        return {"scanner": pupil.name, "learned": False, "error": error.public}
    except TimeoutError:
        return {"scanner": pupil.name, "learned": False, "error": f"It took longer than {SECONDS:g} s."}
    except Exception as error:
        log.error("a scanner could not learn", scanner=pupil.name, exc_info=error)
        return {"scanner": pupil.name, "learned": False, "error": f"It failed: {type(error).__name__}."}
    return {"scanner": pupil.name, "learned": learned} | ({} if learned else {"note": "It knew already."})


def _ended(due: Due, state: str, reason: str) -> Taught:
    return Taught(due.message_id, due.reports, state, reason, due.learned)
