"""Domains of an organization and their DKIM keys. Role app, but for what says worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.errors import Refused
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class NewDomain:
    id: UUID
    org_id: UUID
    name: str
    region: str
    sending: bool
    receiving: bool
    custom_return_path: str
    open_tracking: bool
    click_tracking: bool
    tracking_subdomain: str | None
    tls: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewKey:
    id: UUID
    selector: str
    algorithm: str
    private_sealed: bytes
    public_txt: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a domain's DNS found, to be written."""

    status: str
    lacking: str | None
    record_status: dict[str, str]
    seen: dict[str, Any]
    at: datetime
    complete: bool
    """All records are there."""
    waiting_since: datetime | None
    due_in_seconds: float | None
    """None: not before somebody asks."""


async def count_locked(db: Connection, org_id: UUID) -> int:
    """How many it has; until the transaction ends nobody else adds one."""
    await db.execute("SELECT FROM organizations WHERE id = $1 FOR NO KEY UPDATE", org_id)
    found: int = await db.fetchval("SELECT count(*) FROM domains")
    return found


async def insert(db: Connection, domain: NewDomain, keys: Sequence[NewKey]) -> bool:
    """False when the organization has this domain already."""
    made = await db.fetchval(
        "INSERT INTO domains (id, org_id, name, region, sending, receiving, custom_return_path, open_tracking, "
        "click_tracking, tracking_subdomain, tls, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (org_id, name) DO NOTHING RETURNING true",
        *(domain.id, domain.org_id, domain.name, domain.region, domain.sending, domain.receiving),
        *(domain.custom_return_path, domain.open_tracking, domain.click_tracking, domain.tracking_subdomain),
        *(domain.tls, domain.created_at),
    )
    if not made:
        return False
    await db.executemany(
        "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (key.id, domain.org_id, domain.id, key.selector, key.algorithm, key.private_sealed, key.public_txt)
            for key in keys
        ],
    )
    return True


async def taken(db: Connection, name: str, org_id: UUID) -> bool:
    """Whether another organization has verified it."""
    return bool(await db.fetchval("SELECT lookup_domain_taken($1, $2)", name, org_id))


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """With its DKIM keys: those that sign as `dkim`, `[{selector, algorithm, public_txt}]`; those that will, that did a short
    while ago, or whose record could be removed, as `dkim_other`, with `state`, `seen`, `published_at` and `keep_until`."""
    return await db.fetchrow(f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE id = $1", id_)


async def find_locked(db: Connection, id_: UUID) -> asyncpg.Record | None:
    """As `find`; nobody else changes it until the transaction ends."""
    return await db.fetchrow(f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE id = $1 FOR NO KEY UPDATE", id_)


async def named(db: Connection, name: str) -> asyncpg.Record | None:
    """The organization's own of that name."""
    return await db.fetchrow(f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE name = $1 FOR NO KEY UPDATE", name)


async def page(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"SELECT {_COLUMNS} FROM domains d WHERE true", [], page)


async def sending_id(db: Connection, name: str) -> UUID | None:
    """The domain of exactly this name that may send: a verified subdomain does not cover its parent, nor the reverse.

    Raises Refused while it is paused (flow.reputation), with the reason.
    """
    row = await db.fetchrow(
        "SELECT id, (SELECT a.text FROM alarms a WHERE a.org_id = d.org_id AND a.domain = d.name AND a.action = 'paused' "
        "AND a.ended_at IS NULL LIMIT 1) FROM domains d WHERE name = $1 AND sending "
        "AND (status = 'verified' OR status IN ('partially_verified', 'partially_failed') AND lacking = 'receiving')",
        name,
    )
    if row is not None and row[1] is not None:
        raise Refused(f"The `{name}` domain is paused. {row[1]}")
    return None if row is None else row[0]


async def sender(db: Connection, name: str | None) -> asyncpg.Record | None:
    """The domain of that name, whether it may send or not; None: the first that may. With `dkim`."""
    if name is not None:
        return await db.fetchrow(f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE name = $1", name)
    return await db.fetchrow(
        f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE sending "
        "AND (status = 'verified' OR status IN ('partially_verified', 'partially_failed') AND lacking = 'receiving') "
        "ORDER BY id LIMIT 1"
    )


async def scan_policy(db: Connection, name: str) -> asyncpg.Record | None:
    """What the organization's domain of that name does with spam and malware (flow.scan)."""
    return await db.fetchrow(
        "SELECT spam_action, spam_score, unsure_score, malware_action, subject_tag, compatible_headers FROM domains "
        "WHERE name = $1",
        name,
    )


async def dmarc_policy(db: Connection, name: str) -> str | None:
    """What the organization's domain of that name does with mail that fails DMARC: tag, quarantine, reject."""
    found: str | None = await db.fetchval("SELECT dmarc_policy FROM domains WHERE name = $1", name)
    return found


async def tracking_host(db: Connection, id_: UUID) -> str | None:
    """The domain's own, once it is verified."""
    return await db.fetchval(  # type: ignore[no-any-return]
        "SELECT tracking_subdomain || '.' || name FROM domains WHERE id = $1 AND tracking_verified", id_
    )


async def has_tracking_host(db: Connection, host: str) -> bool:
    """Whether links of the organization's mail lead, or once led, there. `host` in lower case."""
    labels = host.split(".")
    parents = [".".join(labels[n:]) for n in range(1, len(labels) - 1)]
    return bool(
        await db.fetchval(
            "SELECT true FROM domains d, unnest(ARRAY[tracking_subdomain] || old_tracking) AS t (label) "
            "WHERE d.name = ANY ($2::text[]) AND t.label || '.' || d.name = $1 LIMIT 1",
            *(host, parents),
        )
    )


async def sandbox_id(db: Connection, name: str) -> UUID | None:
    """The sending domain of that name, whoever has it."""
    found: UUID | None = await db.fetchval("SELECT lookup_sandbox_domain($1)", name)
    return found


async def begin_verification(db: Connection, id_: UUID) -> bool:
    """A look is due now. `pending`, unless a capability is in force: that one goes on while it is checked again."""
    return bool(await db.fetchval(_BEGIN, id_))


# what had failed waits anew; what is verified and lost its records must not win time by being asked for
_BEGIN = """
UPDATE domains SET
  status = CASE status WHEN 'verified' THEN 'verified' WHEN 'partially_verified' THEN status
                       WHEN 'partially_failed' THEN 'partially_verified' ELSE 'pending' END,
  waiting_since = CASE WHEN status = 'verified' THEN waiting_since ELSE now() END,
  record_status = (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(record_status)
                   WHERE value <> '"failed"'),
  check_due_at = now(), dkim_due_at = CASE WHEN dkim_due_at IS NOT NULL THEN now() END
WHERE id = $1 RETURNING true
"""


async def update(db: Connection, id_: UUID, changed: Mapping[str, Any]) -> None:
    """Columns that a caller chose among known ones; a look is due now where one has been asked for before."""
    names = list(changed)
    columns = ", ".join(f"{name} = ${number}" for number, name in enumerate(names, 2))
    await db.execute(
        f"UPDATE domains SET {columns}, revision = revision + 1, "
        "check_due_at = CASE WHEN status = 'not_started' THEN check_due_at ELSE now() END WHERE id = $1",
        id_,
        *changed.values(),
    )


async def delete(db: Connection, id_: UUID) -> list[int]:
    """Its mail that waits for a later time comes up now, to be told that its domain is gone: sites to ring. Also role worker."""
    rows = await db.fetch(_HURRY, id_)
    await db.execute("DELETE FROM domains WHERE id = $1", id_)
    return [row["site_id"] for row in rows]


_HURRY = """
WITH hurried AS (
  UPDATE queue q SET due_at = now()
  FROM domains d, lanes l, emails e
  WHERE d.id = $1 AND l.org_id = d.org_id AND q.lane_id = l.id AND q.worker IS NULL AND q.due_at > now()
    AND e.id = q.email_id AND e.domain_id = d.id
  RETURNING l.domain
)
SELECT DISTINCT r.site_id FROM hurried h JOIN recipient_domains r ON r.domain = h.domain
"""


# ---- role worker -----------------------------------------------------------------------------------------------------


async def owner_locked(db: Connection, name: str, not_org: UUID) -> asyncpg.Record | None:
    """Who has verified the name, other than this organization."""
    return await db.fetchrow(
        f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE name = $1 AND org_id <> $2 "
        "AND status IN ('verified', 'partially_verified', 'partially_failed') FOR NO KEY UPDATE",
        *(name, not_org),
    )


async def sending(db: Connection, most: int) -> list[asyncpg.Record]:
    """Domains that may send, those that have been here longest first, with `dkim`."""
    rows: list[asyncpg.Record] = await db.fetch(
        f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE sending "
        "AND status IN ('verified', 'partially_verified', 'partially_failed') ORDER BY id LIMIT $1",
        most,
    )
    return rows


PAGE = 500


async def sending_below(db: Connection, names: Collection[str]) -> AsyncIterator[asyncpg.Record]:
    """As `sending`: all that have one of these names, or one below it, by their ids; PAGE of them are asked for at a time."""
    last, page = UUID(int=0), PAGE
    while page == PAGE:
        rows = await db.fetch(
            f"SELECT {_COLUMNS}, {_DKIM} FROM domains d WHERE sending AND d.id > $2 "
            "AND status IN ('verified', 'partially_verified', 'partially_failed') "
            "AND EXISTS (SELECT FROM string_to_array(d.name, '.') AS of (labels), generate_subscripts(of.labels, 1) AS n (at) "
            "WHERE array_to_string(of.labels[n.at:], '.') = ANY ($1::text[])) ORDER BY d.id LIMIT $3",
            *(list(names), last, PAGE),
        )
        for row in rows:
            last = row["id"]
            yield row
        page = len(rows)


async def claim_due(db: Connection, limit: int) -> list[UUID]:
    """Domains that are due for a look; the next one is written first, for whoever dies on the way."""
    rows = await db.fetch(_CLAIM_DUE, limit)
    return [row["id"] for row in rows]


_CLAIM_DUE = """
UPDATE domains SET check_due_at = now() + interval '5 minutes'
WHERE id IN (SELECT id FROM domains WHERE check_due_at <= now() ORDER BY check_due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id
"""


async def claim_one(db: Connection, id_: UUID) -> bool:
    """As `claim_due`, of this one. False: it is not due, so whoever asked has had a look since."""
    return bool(
        await db.fetchval(
            "UPDATE domains SET check_due_at = now() + interval '5 minutes' WHERE id = $1 AND check_due_at <= now() "
            "RETURNING true",
            id_,
        )
    )


async def write_look(db: Connection, id_: UUID, looked: Looked) -> None:
    """Raises UniqueViolationError when another organization has the name."""
    await db.execute(
        _WRITE,
        *(id_, looked.status, looked.lacking, looked.record_status, looked.seen, looked.at, looked.complete),
        *(looked.waiting_since, looked.due_in_seconds),
    )


# one that is due again was asked for while this look was under way
_WRITE = """
UPDATE domains SET status = $2, lacking = $3, record_status = $4, seen = $5, checked_at = $6,
  verified_at = CASE WHEN $7 THEN $6 ELSE verified_at END, waiting_since = $8,
  owned_since = CASE WHEN $2 IN ('verified', 'partially_verified', 'partially_failed') THEN coalesce(owned_since, $6) END,
  check_due_at = CASE WHEN check_due_at <= now() THEN check_due_at ELSE now() + make_interval(secs => $9) END
WHERE id = $1
"""

_COLUMNS = (
    "id, org_id, name, status, lacking, region, sending, receiving, custom_return_path, open_tracking, click_tracking, "
    "tracking_subdomain, old_tracking, tracking_changed_at, tls, record_status, seen, revision, owned_since, waiting_since, "
    "checked_at, created_at"
)
_DKIM = (
    "(SELECT coalesce(jsonb_agg(jsonb_build_object('selector', k.selector, 'algorithm', k.algorithm, "
    "'public_txt', k.public_txt) ORDER BY k.algorithm DESC), '[]') "
    "FROM dkim_keys k WHERE k.domain_id = d.id AND k.active) AS dkim, "
    "(SELECT coalesce(jsonb_agg(jsonb_build_object('selector', k.selector, 'algorithm', k.algorithm, "
    "'public_txt', k.public_txt, 'state', k.state, 'seen', k.seen, 'published_at', k.published_at, "
    "'keep_until', k.keep_until) ORDER BY k.algorithm DESC, k.id), '[]') "
    "FROM dkim_keys k WHERE k.domain_id = d.id AND NOT k.active AND (k.state <> 'retired' OR k.seen)) AS dkim_other"
)
