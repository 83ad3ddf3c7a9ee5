"""The door of opens, clicks and unsubscribes.

    tracks.note(Hit(…))           returns at once and never fails: a picture or a redirect does not wait for the database
    await tracks.leads_from(…)    whether a link of an organization's mail may be followed from that host
    await unsubscribe(store, …)   returns after the commit

The first hit is stored at once. Others wait in memory, in a bounded queue, for a moment, and leave together:

1. each email's row is locked: who was first, what was stored this hour
2. a hit that comes as no person's would is marked: within seconds of the delivery, or one link right after another
3. past the limit of an hour hits are counted in the row and not stored
4. the event, for webhooks too; the delivery's last event moves forward

While the database is away hits wait and are tried again. What finds no room, or is left at the end of the process, is counted in
postroom_tracking_hits_total: these are the only events of Postroom that may be lost.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from mailcore.events import timestamp
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.metrics import TRACKING_HITS
from mailcore.kit.remember import Remembered
from mailcore.kit.retry import backoff
from mailcore.mime.tracking import Subscription
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import domains, engagements, events, unsubscribes
from mailcore.store.engagements import Engagement
from mailcore.store.events import NewEvent
from mailcore.store.session import Store

log = logger(__name__)

EVENTS_AN_HOUR = 100
"""Of one email that are stored; the others are counted."""
WAITING = 10_000
"""Hits that wait in a process, some 2 KiB each at most."""
BATCH = 500
GATHER_SECONDS = 0.2
"""From one transaction to the next, so that many readers cost few."""
AT_ONCE = timedelta(seconds=5)
"""After the delivery no person has read the mail yet: it is the receiving side that looks at it."""
NEXT_LINK = timedelta(seconds=2)
"""Nobody follows a second link of a mail so soon after the first."""
HOST_SECONDS = 300.0
"""So old may be what is known of a tracking host."""
RETRY_FIRST, RETRY_LONGEST = 0.5, 30.0
"""Seconds between tries while the database is away."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One look at an image or one link followed."""

    org_id: UUID
    email_id: UUID
    url: str | None
    """Of a link; None: an open."""
    at: datetime
    ip: str
    user_agent: str
    proxy: str | None = None
    """Whose image proxy asked: `gmail`, `apple`, `yahoo`, … It shows its own address, and may ask before anybody reads."""
    scanner: bool = False
    """By what it sent it is a program: a scanner, a preview, a prefetch."""
    read: bool = True
    """False: surely nobody has read the mail by this: it is no first open, and the mail's last event stays."""


_OF_VALUES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
_Noted: TypeAlias = tuple[UUID, Hit]
"""With the id of its event."""
_LeftOut: TypeAlias = tuple[UUID, UUID, str]
"""Email, organization, `open` or `click`."""


class Tracks:
    """One a process."""

    def __init__(self, store: Store, ringer: Ringer, keys: Sequence[bytes], *, waiting: int = WAITING) -> None:
        """`keys`: `keyring.derive_all("track")`."""
        self.keys = keys
        """Of the tokens, for whoever reads them."""
        self._store = store
        self._ringer = ringer
        self._hosts: Remembered[tuple[UUID, str], bool] = Remembered(
            self._has_host, seconds=HOST_SECONDS, maximum=10_000
        )
        self._room = waiting
        self._waiting: deque[_Noted] = deque()
        self._last = UUID(int=0)
        self._of_email: Counter[UUID] = Counter()
        """Hits that wait; of one email no more than are stored of it in an hour …"""
        self._left_out: Counter[_LeftOut] = Counter()
        """… and how many came beyond."""
        self._task: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()

    async def leads_from(self, host: str, org_id: UUID) -> bool:
        """False: the host is not one of the organization's tracking hosts, and its name would vouch for another's link. While the
        database is away nobody can tell, and a reader's link works."""
        try:
            return bool(await self._hosts.get((org_id, host)))
        except Unavailable:
            return True

    async def _has_host(self, asked: tuple[UUID, str]) -> bool | None:
        async with self._store.tenant(asked[0]) as db:
            return await domains.has_tracking_host(db, asked[1]) or None

    def note(self, hit: Hit) -> None:
        if self._of_email[hit.email_id] >= EVENTS_AN_HOUR:
            self._left_out[hit.email_id, hit.org_id, _kind(hit)] += 1
        elif len(self._waiting) >= self._room:
            TRACKING_HITS.labels(_kind(hit), "lost").inc()
            return
        else:
            self._of_email[hit.email_id] += 1
            # events are in the order of their ids, those of one millisecond too
            self._last = max(uuid7(), UUID(int=self._last.int + 1))
            self._waiting.append((self._last, hit))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def drain(self, seconds: float = 5.0) -> None:
        """Returns when everything noted so far is stored, or after that time; then what is left is counted as lost."""
        self._draining.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
        if self._task is not None:
            self._task.cancel()
            for _, hit in self._waiting:
                TRACKING_HITS.labels(_kind(hit), "lost").inc()
            log.warning("opens and clicks could not be stored before the end", hits=len(self._waiting))

    async def _run(self) -> None:
        failures = 0
        try:
            while self._waiting or self._left_out:
                hits = [self._waiting[i] for i in range(min(BATCH, len(self._waiting)))]
                left_out = dict(self._left_out)
                try:
                    await self._store_all(hits, left_out)
                except Unavailable as error:
                    failures += 1
                    log.warning("opens and clicks wait for the database", hits=len(self._waiting), error=error.public)
                    await asyncio.sleep(backoff(failures - 1, first=RETRY_FIRST, longest=RETRY_LONGEST))
                    continue
                failures = 0
                for _, hit in hits:
                    self._waiting.popleft()
                    self._of_email[hit.email_id] -= 1
                    if not self._of_email[hit.email_id]:
                        del self._of_email[hit.email_id]
                for key, count in left_out.items():
                    self._left_out[key] -= count
                    if not self._left_out[key]:
                        del self._left_out[key]
                if len(self._waiting) < BATCH:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._draining.wait(), GATHER_SECONDS)
        finally:
            self._task = None

    async def _store_all(self, hits: Sequence[_Noted], left_out: dict[_LeftOut, int]) -> None:
        """Raises Unavailable; the same call may be made again, for what was stored already has its event's id.

        What the database says of the values themselves, and what fails in this process, is one hit's: then they are tried one
        by one, so that it takes nothing else with it. Everything else is temporary.
        """
        try:
            await self._commit(hits, left_out)
        except Unavailable:
            raise
        except Exception as error:
            if isinstance(error, asyncpg.PostgresError) and not isinstance(error, _OF_VALUES):
                raise Unavailable(f"The database refused for now: {error}") from error
            if len(hits) + len(left_out) <= 1:
                if not isinstance(error, asyncpg.UniqueViolationError):  # else the reply to an earlier commit was lost
                    log.error("an open or click cannot be stored", exc_info=error)
                    TRACKING_HITS.labels(_kind(hits[0][1]) if hits else next(iter(left_out))[2], "lost").inc()
                return
            for hit in hits:
                await self._store_all([hit], {})
            for key, count in left_out.items():
                await self._store_all([], {key: count})

    async def _commit(self, hits: Sequence[_Noted], left_out: dict[_LeftOut, int]) -> None:
        outcomes: Counter[tuple[str, str]] = Counter()
        emails = {(hit.email_id, hit.org_id) for _, hit in hits} | {key[:2] for key in left_out}
        async with self._store.worker() as db:
            found = await engagements.open_(db, sorted(emails))
            raised: list[NewEvent] = []
            opened: set[UUID] = set()
            clicked: set[UUID] = set()
            for id_, hit in hits:
                row = found.get(hit.email_id)
                if row is None or row.org_id != hit.org_id:
                    outcomes[_kind(hit), "gone"] += 1
                    continue
                event = _event(id_, row, hit)
                outcomes[_kind(hit), "stored" if event else "limited"] += 1
                if event is None:
                    continue
                raised.append(event)
                if hit.read:
                    (opened if hit.url is None else clicked).add(hit.email_id)
            for (email_id, _, kind), count in left_out.items():
                outcomes[kind, "limited"] += count
                if email_id in found:
                    found[email_id].left_out += count
            await engagements.write(db, list(found.values()))
            await engagements.move(db, sorted(opened), sorted(clicked))
            queued = await events.insert(db, raised)
        for labels, count in outcomes.items():
            TRACKING_HITS.labels(*labels).inc(count)
        if queued:
            self._ringer.ring(WEBHOOKS)


def _kind(hit: Hit) -> str:
    return "open" if hit.url is None else "click"


def _event(id_: UUID, row: Engagement, hit: Hit) -> NewEvent | None:
    """What is stored of a hit, or None past the limit; the row learns of both."""
    hour = hit.at.replace(minute=0, second=0, microsecond=0)
    if row.hour is None or hour > row.hour:
        row.hour, row.in_hour = hour, 0
    if row.in_hour >= EVENTS_AN_HOUR:
        row.left_out += 1
        return None
    row.in_hour += 1
    scanner = hit.scanner or row.delivered_at is None or hit.at - row.delivered_at < AT_ONCE
    told: dict[str, Any] = {"ipAddress": hit.ip, "timestamp": timestamp(hit.at), "userAgent": hit.user_agent}
    if hit.url is not None:
        told["link"] = hit.url
        link = hashlib.sha256(hit.url.encode()).digest()[:8]
        if row.last_click is not None and link != row.last_link and hit.at - row.last_click < NEXT_LINK:
            scanner = True
        row.last_click, row.last_link = hit.at, link
    if hit.proxy:
        told["proxy"] = hit.proxy
    if scanner:
        told["scanner"] = True
    detail: dict[str, Any] = {"open" if hit.url is None else "click": told}
    if hit.read and not scanner and _is_first(row, hit):
        detail["first"] = True
    # of a mail to several it is not known who of them it was: the event tells of the email
    recipients = [row.recipient] if row.recipients == 1 and row.recipient is not None else None
    type_ = "email.opened" if hit.url is None else "email.clicked"
    return NewEvent(id_, row.org_id, type_, row.email_id, hit.at, recipients, detail)


def _is_first(row: Engagement, hit: Hit) -> bool:
    """Of a person; the row remembers it."""
    if hit.url is None:
        first = row.opened_at is None
        row.opened_at = row.opened_at or hit.at
    else:
        first = row.clicked_at is None
        row.clicked_at = row.clicked_at or hit.at
    return first


async def unsubscribe(store: Store, subscription: Subscription) -> None:
    """Returns after the commit; twice is once. Raises NotFound when the organization is no more, Unavailable."""
    try:
        async with store.tenant(subscription.org_id) as db:
            new = await unsubscribes.add(
                db, subscription.org_id, subscription.recipient, subscription.list_id, subscription.email_id
            )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("This link leads nowhere.") from None
    if new:
        log.info(
            "unsubscribed",
            org_id=str(subscription.org_id),
            list_id=str(subscription.list_id),
            email_id=str(subscription.email_id),
        )
