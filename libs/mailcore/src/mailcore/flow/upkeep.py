"""What time alone does: partitions ahead, keys that have served their time, mail that waited out its schedule or its quarantine,
mail that a provider took and never reported, orphan blobs.

Safe to run twice and at the same time: it makes what is missing and deletes what is expired.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.flow import quarantine, settle
from mailcore.kit.ids import lower_bound, uuid7_time
from mailcore.kit.log import logger
from mailcore.store import conversations, dmarc_reports, greylist, logs, provider_events, reputation, trainings
from mailcore.store.session import Store

log = logger(__name__)

IDEMPOTENCY_HOURS = 24
ARRIVAL_KEY_HOURS = 48
"""Ids of a source count for so long, content for an hour (flow.receive): those who post tries again for a day and more."""
AUTH_EVENT_DAYS = 90
PROVIDER_EVENT_DAYS = 30
"""A post that is repeated after so long changes nothing either: its delivery has come to its end."""
DMARC_REPORT_DAYS = 400
"""After the time that they are about: a year can be compared with the one before."""
RELAYED_SECONDS = 3 * 86_400.0
"""Longer than providers try: by then they have reported, or they will not."""
BATCH = 5_000
ORPHAN_FROM, ORPHAN_TO = timedelta(hours=24), timedelta(hours=30)
"""Ages between which a blob is looked at: hourly, so six times, and then it is known to have its row."""
AROUND = timedelta(minutes=1)
"""How far the id of a row is looked for from those of its blobs: they have one time (blob.new_key)."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    partitions: int
    idempotency_keys: int
    arrival_keys: int
    expired: int
    unreported: int
    """Deliveries that a provider took and said no more about."""
    orphan_blobs: int
    sessions: int
    auth_events: int
    log_months: int
    webhooks: int
    """Webhook deliveries queued: ring when not 0."""


async def upkeep(
    store: Store,
    blobs: BlobStore,
    *,
    lifetime_seconds: float,
    broadcast_seconds: float | None = None,
    waiting_seconds: float | None = None,
    relayed_seconds: float = RELAYED_SECONDS,
) -> Upkeep:
    """By the database's clock: a process whose own is ahead deletes nothing early.

    `lifetime_seconds`: how long mail is tried; `broadcast_seconds`: of broadcasts, where that is another time, and
    `waiting_seconds` of broadcasts that wait for room. `relayed_seconds`: how long a provider's report is waited for. Raises
    Unavailable; what was done by then stays done.
    """
    async with store.worker() as db:
        clock: datetime = await db.fetchval("SELECT now()")
    return await upkeep_at(
        store,
        blobs,
        clock,
        lifetime_seconds=lifetime_seconds,
        broadcast_seconds=broadcast_seconds,
        waiting_seconds=waiting_seconds,
        relayed_seconds=relayed_seconds,
    )


async def upkeep_at(
    store: Store,
    blobs: BlobStore,
    now: datetime,
    *,
    lifetime_seconds: float,
    broadcast_seconds: float | None = None,
    waiting_seconds: float | None = None,
    relayed_seconds: float = RELAYED_SECONDS,
    silent_batch: int = provider_events.SILENT_BATCH,
) -> Upkeep:
    """What `upkeep` would do at this time, whatever the time is; `silent_batch` as in `provider_events.silent`."""
    async with store.worker() as db:
        made = await db.fetch("SELECT make_partitions()")
    async with store.worker() as db:
        months = await logs.drop_old(db, now)
    keys = await _delete(store, _OLD_IDEMPOTENCY, now - timedelta(hours=IDEMPOTENCY_HOURS))
    arrivals = await _delete(store, _OLD_ARRIVALS, now - timedelta(hours=ARRIVAL_KEY_HOURS))
    sessions = await _delete(store, _OLD_SESSIONS, now)
    told = await _delete(store, _OLD_AUTH_EVENTS, lower_bound(now - timedelta(days=AUTH_EVENT_DAYS)))
    await _delete(store, _OLD_PROVIDER_EVENTS, now - timedelta(days=PROVIDER_EVENT_DAYS))
    expired, webhooks = await settle.expire(
        store,
        now - timedelta(seconds=lifetime_seconds),
        now - timedelta(seconds=lifetime_seconds if broadcast_seconds is None else broadcast_seconds),
        None if waiting_seconds is None else now - timedelta(seconds=waiting_seconds),
    )
    unreported = await _unreported(store, now, relayed_seconds, silent_batch)
    await quarantine.expire(store, blobs, now)
    orphans = await _orphans(store, blobs, now)
    return Upkeep(len(made), keys, arrivals, expired, unreported, orphans, sessions, told, months, webhooks)


async def forget(store: Store) -> int:
    """Conversations past their 30 days, what keys sent longer ago, DMARC reports of more than a year, what was reported and learned
    three months ago, whom the greylist has not seen for long. Returns the attempts it came to. Raises Unavailable."""
    full = True
    while full:
        async with store.worker() as db:
            full = await greylist.forget(db, limit=BATCH) == BATCH
    async with store.worker() as db:
        await reputation.forget_keys(db)
        await dmarc_reports.forget_old(db, days=DMARC_REPORT_DAYS)
        await trainings.forget(db, BATCH)
        clock: datetime = await db.fetchval("SELECT now()")
    total = 0
    while True:
        async with store.worker() as db:
            passed = await conversations.forget(db, lower_bound(clock - timedelta(days=conversations.DAYS)))
        total += passed
        if passed < conversations.BATCH:
            return total


_OLD_IDEMPOTENCY = """
WITH gone AS (
  DELETE FROM idempotency_keys WHERE (org_id, endpoint, key) IN
    (SELECT org_id, endpoint, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2) RETURNING 1
) SELECT count(*) FROM gone
"""
_OLD_ARRIVALS = """
WITH gone AS (
  DELETE FROM arrival_keys WHERE digest IN (SELECT digest FROM arrival_keys WHERE at < $1 ORDER BY at LIMIT $2) RETURNING 1
) SELECT count(*) FROM gone
"""
_OLD_SESSIONS = """
WITH gone AS (
  DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT $2) RETURNING 1
) SELECT count(*) FROM gone
"""
_OLD_AUTH_EVENTS = """
WITH gone AS (
  DELETE FROM auth_events WHERE id IN (SELECT id FROM auth_events WHERE id < $1 ORDER BY id LIMIT $2) RETURNING 1
) SELECT count(*) FROM gone
"""
_OLD_PROVIDER_EVENTS = """
WITH gone AS (
  DELETE FROM provider_events WHERE digest IN (SELECT digest FROM provider_events WHERE at < $1 ORDER BY at LIMIT $2)
  RETURNING 1
) SELECT count(*) FROM gone
"""


async def _delete(store: Store, sql: str, before: datetime | UUID) -> int:
    total = 0
    while True:
        async with store.worker() as db:
            gone: int = await db.fetchval(sql, before, BATCH)
        total += gone
        if gone < BATCH:
            return total


async def _unreported(store: Store, now: datetime, seconds: float, batch: int) -> int:
    """A row for each that says so; its state and its events say nothing that nobody knows."""
    words = f"no report within {seconds / 86_400:g} days: whether it was delivered is not known"
    by_site: Counter[str] = Counter()
    while True:
        async with store.worker() as db:
            passed, silent = await provider_events.silent(db, now - timedelta(seconds=seconds), words, batch)
        by_site.update(silent)
        if passed < batch:
            break
    for site, mails in by_site.items():
        log.warning(
            "a provider has not reported what became of mail it took: is its webhook set up?", site=site, mails=mails
        )
    return by_site.total()


async def _orphans(store: Store, blobs: BlobStore, now: datetime) -> int:
    """Deletes blobs of that age that no email and no arrival names: their transaction never came."""
    removed = 0
    batch: list[str] = []
    async for key in blobs.keys(older_than=now - ORPHAN_FROM):
        made = _made_at(key)
        if made is not None and now - ORPHAN_TO <= made <= now - ORPHAN_FROM:
            batch.append(key)
        if len(batch) >= 100:
            removed += await _remove(store, blobs, batch)
            batch = []
    return removed + (await _remove(store, blobs, batch) if batch else 0)


async def _remove(store: Store, blobs: BlobStore, keys: list[str]) -> int:
    at = [made for key in keys if (made := _made_at(key))]
    async with store.worker() as db:
        rows = await db.fetch(
            _UNNAMED,
            keys,
            [UUID(key.split("/")[0]) for key in keys],
            [lower_bound(made - AROUND) for made in at],
            [lower_bound(made + AROUND) for made in at],
        )
    for row in rows:
        log.info("a blob without a row is removed", key=row["key"])
        await blobs.delete(row["key"])
    return len(rows)


_UNNAMED = """
SELECT t.key FROM unnest($1::text[], $2::uuid[], $3::uuid[], $4::uuid[]) AS t (key, org_id, low, high)
WHERE NOT EXISTS (
  SELECT FROM emails e WHERE e.org_id = t.org_id AND e.id >= t.low AND e.id < t.high
    AND (e.body_blob = t.key OR e.raw_blob = t.key OR e.attachments @> jsonb_build_array(jsonb_build_object('blob', t.key))))
AND NOT EXISTS (
  SELECT FROM arrivals a WHERE a.org_id = t.org_id AND a.id >= t.low AND a.id < t.high AND a.raw_blob = t.key)
"""


def _made_at(key: str) -> datetime | None:
    """When a key `<org>/<yyyy-mm>/<uuidv7>` was made; None for what is no key of ours, which is left alone."""
    parts = key.split("/")
    try:
        UUID(parts[0])
        id_ = UUID(parts[-1])
    except ValueError:
        return None
    return uuid7_time(id_) if len(parts) == 3 and id_.version == 7 else None
