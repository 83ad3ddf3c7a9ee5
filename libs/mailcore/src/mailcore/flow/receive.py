"""The door of receiving: mail that arrives goes through here, and is on disk when `receive` returns.

    receives = Receives(store, ringer, blobs)
    done = await receives.receive(Arrival(raw, envelope, facts, source, source_id, door, tenants))

1. one arrival for each organization that has recipients in it
2. raw mail over INLINE_BYTES to the blob store, durable, before the transaction
3. one statement for all that is in flight (flow.group): keys, arrivals, queue rows
4. after the commit the router's bell; only then does the peer hear 250

A repeat makes no second arrival and is answered as if it did: the same (source, source_id), or by SMTP, where a peer that did not
hear our 250 sends again (RFC 1047), the same envelope and content within an hour. It is logged, counted, and stands among the
first arrival's decisions.

The raw mail is kept bit for bit as the peer sent it (without the dots that SMTP adds): no Received line is put before it, what such
a line would say is in `facts`. `raw` as served by the API is these bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from mailcore.blob.base import INLINE_BYTES, BlobStore, Spooled, new_key
from mailcore.flow.group import GroupCommit
from mailcore.kit import failpoint
from mailcore.kit.errors import MailError
from mailcore.kit.ids import uuid7, uuid7_time
from mailcore.kit.log import logger
from mailcore.kit.metrics import ARRIVAL_REPEATS, ARRIVALS
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import ROUTE
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.arrivals import NewArrival
from mailcore.store.session import Store

log = logger(__name__)

REPEAT_SECONDS = 3600.0
"""For so long, the same envelope and content by SMTP is the same mail."""
GATHER_SECONDS = 0.002
"""Between two groups of arrivals, at most."""
_HASHED_INLINE = 1024 * 1024
_BLOBS_AT_ONCE = 8
"""Of one mail: each organization has its own."""


class Arrival(NamedTuple):
    raw: bytes | Spooled
    envelope: Envelope
    facts: dict[str, Any]
    """What is known about the handing over: peer name, TLS, protocol. JSON, moments too, no control characters."""
    source: str
    """Who handed it over: address of the peer, id of the endpoint."""
    source_id: str | None
    """Its own id there; None: it has none, and repeats are known by their content."""
    door: str
    """smtp, resend, cloudflare, imap."""
    tenants: Mapping[UUID, Sequence[str]]
    """Organization → its recipients, out of the envelope."""
    decisions: Sequence[dict[str, Any]] = ()
    """What was decided before it came to this door, as `decision` makes them."""
    auth: dict[str, Any] | None = None
    """What flow.authenticate found, where it was asked before the reply …"""
    findings: list[dict[str, Any]] | None = None
    """… and what scanners said then (flow.scan)."""


class Received(NamedTuple):
    ids: dict[UUID, UUID]
    """Organization → arrival; of a repeat, the first one."""
    repeat: bool
    """Nothing of it was new."""


class _Member(NamedTuple):
    rows: list[NewArrival]
    window: float | None
    weight: int = 1

    def repeats(self, done: Received) -> list[NewArrival]:
        """Those that are no new arrivals."""
        return [row for row in self.rows if done.ids[row.org_id] != row.id]


class Receives:
    """One a process."""

    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        blobs: BlobStore,
        *,
        in_flight: int = 2,
        company: int = 64,
        members: int = 200,
    ) -> None:
        self._store = store
        self._ringer = ringer
        self._blobs = blobs
        self.taken = 0
        """Arrivals, since the process began."""
        self._noting: set[asyncio.Task[None]] = set()
        self._group: GroupCommit[_Member, Received] = GroupCommit(
            self._commit,
            in_flight=in_flight,
            company=company,
            members=members,
            gather_seconds=GATHER_SECONDS,
            weight=lambda member: member.weight,
        )

    async def receive(self, arrival: Arrival) -> Received:
        """Returns after the commit. Raises Unavailable: nothing was stored, or nobody can tell; the peer is to send again."""
        small = _small(arrival.raw)
        member = self._member(arrival, small) if small is not None else await self._prepare(arrival)
        done = await self._group.join(member)
        failpoint.hit("f16")
        await self._note_repeats(member, done)
        return done

    def begin(self, arrival: Arrival) -> asyncio.Future[Received]:
        """As `receive`, for who cannot wait here: a small mail then costs no task. Not to be cancelled."""
        loop = asyncio.get_running_loop()
        small = _small(arrival.raw)
        if small is None:
            return loop.create_task(self.receive(arrival))
        member = self._member(arrival, small)

        def committed(done: asyncio.Future[Received]) -> None:
            failpoint.hit("f16")
            if not done.cancelled() and done.exception() is None and member.repeats(done.result()):
                noting = loop.create_task(self._note_repeats(member, done.result()))
                self._noting.add(noting)
                noting.add_done_callback(self._noting.discard)

        answer = self._group.begin(member)
        answer.add_done_callback(committed)
        return answer

    async def drain(self) -> None:
        """Returns when everything taken so far is committed or failed, and noted."""
        await self._group.drain()
        await asyncio.gather(*self._noting, return_exceptions=True)

    async def _prepare(self, arrival: Arrival) -> _Member:
        """Of a mail that is too large for a row: its blobs are on disk."""
        raw = arrival.raw
        if isinstance(raw, Spooled):
            digest = raw.sha256
        else:
            digest = await asyncio.to_thread(_sha256, raw) if len(raw) > _HASHED_INLINE else _sha256(raw)
        member = _member(arrival, digest, None)
        await self._keep([row.raw_blob for row in member.rows if row.raw_blob is not None], raw)
        failpoint.hit("f15")
        return member

    def _member(self, arrival: Arrival, raw: bytes) -> _Member:
        member = _member(arrival, _sha256(raw), raw)
        failpoint.hit("f15")
        return member

    async def _keep(self, blobs: Sequence[str], raw: bytes | Spooled) -> None:
        """Raises what the first that fails raises; the others are given up, and left to the sweep."""
        left = iter(blobs)

        async def put() -> None:
            for blob in left:
                if isinstance(raw, Spooled):
                    await self._blobs.put_file(blob, raw)
                else:
                    await self._blobs.put(blob, raw)

        if len(blobs) == 1:
            await put()
            return

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(blobs), _BLOBS_AT_ONCE)):
                    group.create_task(put())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _commit(self, members: Sequence[_Member]) -> list[Received | MailError]:
        # twice in one group: the first is the arrival, the others repeat it
        first: dict[float | None, dict[bytes, NewArrival]] = {}
        for member in members:
            for row in member.rows:
                first.setdefault(member.window, {}).setdefault(row.key, row)
        holders = {row.key: row.id for of_window in first.values() for row in of_window.values()}
        for window in sorted(first, key=str):
            holders |= await arrivals.take(self._store, list(first[window].values()), seconds=window)
        new = [row for member in members for row in member.rows if holders[row.key] == row.id]
        # here and not where the client is answered: it may have gone meanwhile
        if new:
            self._ringer.ring(ROUTE)
        self.taken += len(new)
        for row in new:
            ARRIVALS.labels(row.door).inc()
        fresh = {row.id for row in new}
        return [
            Received(
                {row.org_id: holders[row.key] for row in member.rows},
                repeat=not any(row.id in fresh for row in member.rows),
            )
            for member in members
        ]

    async def _note_repeats(self, member: _Member, done: Received) -> None:
        for row in member.repeats(done):
            await self._note_repeat(row, done.ids[row.org_id])

    async def _note_repeat(self, row: NewArrival, first: UUID) -> None:
        """On the first arrival, where somebody may look for it. That the repeat was answered does not hang on this."""
        ARRIVAL_REPEATS.labels(row.door).inc()
        log.info("arrival repeated", arrival=str(first), source=row.source, mail_from=row.mail_from, size=row.size)
        reason = (
            "The same source and id came again." if row.source_id else "The same envelope and content within an hour."
        )
        if row.raw_blob is not None:
            await self._drop(row.raw_blob)
        try:
            async with self._store.worker() as db:
                await arrivals.note(db, first, decision("receive", "repeat", reason, row.created_at, source=row.source))
        except MailError as error:
            log.warning("repeat not noted", arrival=str(first), error=error.public)

    async def _drop(self, blob: str) -> None:
        try:
            await self._blobs.delete(blob)
        except MailError as error:
            log.warning("blob of a repeat left to the sweep", key=blob, error=error.public)


_ACCEPTED = {"step": "receive", "decision": "accepted", "reason": "The domain of each recipient receives here."}


def _small(raw: bytes | Spooled) -> bytes | None:
    """What goes into the row."""
    return raw if isinstance(raw, bytes) and len(raw) <= INLINE_BYTES else None


def _member(arrival: Arrival, digest: bytes, small: bytes | None) -> _Member:
    """One row for each organization; `small`: the raw mail, where it goes into them."""
    size = arrival.raw.size if isinstance(arrival.raw, Spooled) else len(arrival.raw)
    rows = []
    for org_id, recipients in sorted(arrival.tenants.items()):
        id_ = uuid7()
        now = uuid7_time(id_)
        row = NewArrival(
            id=id_,
            org_id=org_id,
            door=arrival.door,
            source=arrival.source,
            source_id=arrival.source_id,
            mail_from=arrival.envelope.mail_from,
            rcpt_to=tuple(recipients),
            facts=arrival.facts,
            size=size,
            sha256=digest,
            raw=small,
            raw_blob=None if small is not None else new_key(org_id, id_),
            decisions=[
                *arrival.decisions,
                {"at": now, **_ACCEPTED},
            ],
            created_at=now,
            auth=arrival.auth,
            findings=arrival.findings,
        )
        rows.append(row._replace(key=_key(row)))
    weight = len(rows) + (size * len(rows) // (32 * 1024) if small is not None else 0)
    return _Member(rows, REPEAT_SECONDS if arrival.source_id is None else None, weight)


def decision(step: str, what: str, why: str, at: datetime | None = None, **more: Any) -> dict[str, Any]:
    """An entry of an arrival's `decisions`."""
    return {"at": (at or datetime.now(UTC)).isoformat(), "step": step, "decision": what, "reason": why, **more}


def _sha256(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def _key(row: NewArrival) -> bytes:
    parts = [row.door, str(row.org_id)]
    if row.source_id is not None:
        parts += ["id", row.source, row.source_id]
    else:
        parts += ["content", row.mail_from, *sorted(row.rcpt_to), row.sha256.hex()]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
