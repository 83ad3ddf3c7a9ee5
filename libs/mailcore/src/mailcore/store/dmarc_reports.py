"""DMARC reports about domains of ours, and what they come to. Role app; worker: forget_old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection


@dataclass(frozen=True, slots=True)
class Received:
    id: UUID
    org_id: UUID
    domain_id: UUID
    arrival_id: UUID | None
    source: str
    proven: str | None
    organization: str
    contact: str
    report_id: str
    begins_at: datetime
    ends_at: datetime
    messages: int
    passed: int
    quarantined: int
    rejected: int
    policy: dict[str, str]
    defects: list[str]


@dataclass(frozen=True, slots=True)
class ReceivedRow:
    source_ip: str
    messages: int
    dkim: bool
    spf: bool
    disposition: str
    header_from: str
    envelope_from: str
    reasons: list[dict[str, str]]
    results: dict[str, list[dict[str, str]]]


async def receive(db: Connection, new: Received, rows: Sequence[ReceivedRow]) -> bool:
    """False: it is here already. Raises ForeignKeyViolationError when the domain is gone."""
    made = await db.fetchval(
        _RECEIVE,
        *(new.id, new.org_id, new.domain_id, new.arrival_id, new.source, new.proven, new.organization, new.contact),
        *(new.report_id, new.begins_at, new.ends_at, new.messages, new.passed, new.quarantined, new.rejected),
        *(new.policy, new.defects),
    )
    if made is None:
        return False
    columns = (
        [row.source_ip for row in rows],
        [row.messages for row in rows],
        [row.dkim for row in rows],
        [row.spf for row in rows],
        [row.disposition for row in rows],
        [row.header_from for row in rows],
        [row.envelope_from for row in rows],
        [orjson.dumps(row.reasons).decode() for row in rows],
        [row.results for row in rows],
    )
    await db.execute(_ROWS, new.id, new.org_id, new.domain_id, new.begins_at, new.ends_at, *columns)
    return True


_RECEIVE = """
INSERT INTO dmarc_reports (id, org_id, domain_id, arrival_id, source, proven, organization, contact, report_id, begins_at, ends_at,
                           messages, passed, quarantined, rejected, policy, defects)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (domain_id, organization, report_id) DO NOTHING RETURNING true
"""
_ROWS = """
INSERT INTO dmarc_rows (report_id, n, org_id, domain_id, begins_at, ends_at, source_ip, messages, dkim, spf, disposition,
                        header_from, envelope_from, reasons, results)
SELECT $1, t.n, $2, $3, $4, $5, t.source_ip::inet, t.messages, t.dkim, t.spf, t.disposition, t.header_from, t.envelope_from,
       t.reasons::jsonb, t.results
FROM unnest($6::text[], $7::bigint[], $8::boolean[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::text[],
            $14::jsonb[]) WITH ORDINALITY
  AS t (source_ip, messages, dkim, spf, disposition, header_from, envelope_from, reasons, results, n)
"""


async def count_since(db: Connection, domain_id: UUID, id_: UUID, *, proven: bool) -> int:
    """Reports of that domain that came after `id_` was made, from somebody proven or from others."""
    found: int = await db.fetchval(
        "SELECT count(*) FROM dmarc_reports WHERE domain_id = $1 AND id >= $2 AND (proven IS NOT NULL) = $3",
        *(domain_id, id_, proven),
    )
    return found


async def own(db: Connection, domain: str, parents: Sequence[str]) -> list[tuple[str, UUID]]:
    """The organization's domains that a report of `domain` may be about, by name: itself, those above it, those below it."""
    rows = await db.fetch(
        "SELECT name, id FROM domains WHERE name = ANY ($1::text[]) OR right(name, length($2) + 1) = '.' || $2 "
        "ORDER BY name LIMIT 100",
        *([domain, *parents], domain),
    )
    return [(row["name"], row["id"]) for row in rows]


async def forget_old(db: Connection, *, days: int) -> None:
    """Role worker. Their rows go with them."""
    await db.execute("DELETE FROM dmarc_reports WHERE ends_at < now() - make_interval(days => $1)", days)


# ---- readers ---------------------------------------------------------------------------------------------------------

_COLUMNS = (
    "r.id, r.domain_id, d.name AS domain, r.arrival_id, r.source, r.proven, r.organization, r.contact, r.report_id, r.begins_at, "
    "r.ends_at, r.messages, r.passed, r.quarantined, r.rejected, r.policy, r.defects"
)


async def page(db: Connection, page: Page, domain_id: UUID | None) -> Slice:
    where, args = ("r.domain_id = $1", [domain_id]) if domain_id else ("true", [])
    select = f"SELECT {_COLUMNS} FROM dmarc_reports r JOIN domains d ON d.id = r.domain_id WHERE {where}"
    return await fetch(db, select, args, page, column="r.id")


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(
        f"SELECT {_COLUMNS} FROM dmarc_reports r JOIN domains d ON d.id = r.domain_id WHERE r.id = $1", id_
    )


async def rows(db: Connection, id_: UUID) -> list[asyncpg.Record]:
    """Of a report, those with the most messages first."""
    found: list[asyncpg.Record] = await db.fetch(
        "SELECT host(source_ip) AS source_ip, messages, dkim, spf, disposition, header_from, envelope_from, reasons, results "
        "FROM dmarc_rows WHERE report_id = $1 ORDER BY messages DESC, n",
        id_,
    )
    return found


@dataclass(frozen=True, slots=True)
class Asked:
    since: datetime
    until: datetime
    domain_id: UUID | None = None
    failing: bool = False
    """Only addresses of which something failed."""
    proven: bool = False
    """Only what proven senders report."""


async def sources(db: Connection, asked: Asked, *, limit: int, offset: int) -> list[asyncpg.Record]:
    """Who sends in the name of our domains, an address a row: what failed most comes first."""
    found: list[asyncpg.Record] = await db.fetch(
        _SOURCES,
        *(asked.since, asked.until, asked.domain_id, asked.proven, asked.failing, limit, offset),
    )
    return found


# the report's whole span counts where it touches the time that is asked for: a report says no more than that
_TOUCHED = """
FROM dmarc_rows w JOIN dmarc_reports r ON r.id = w.report_id JOIN domains d ON d.id = w.domain_id
WHERE w.ends_at >= $1 AND w.begins_at < $2 AND ($3::uuid IS NULL OR w.domain_id = $3)
  AND (NOT $4::boolean OR r.proven IS NOT NULL)
"""
_COUNTS = """
  sum(w.messages)::bigint AS messages,
  (sum(w.messages) FILTER (WHERE w.dkim OR w.spf))::bigint AS passed,
  (sum(w.messages) FILTER (WHERE NOT w.dkim AND NOT w.spf))::bigint AS failed,
  (sum(w.messages) FILTER (WHERE w.disposition = 'quarantine'))::bigint AS quarantined,
  (sum(w.messages) FILTER (WHERE w.disposition = 'reject'))::bigint AS rejected,
  min(w.begins_at) AS first_seen, max(w.ends_at) AS last_seen,
  min(w.begins_at) FILTER (WHERE NOT w.dkim AND NOT w.spf) AS failing_since,
  max(w.ends_at) FILTER (WHERE NOT w.dkim AND NOT w.spf) AS last_failed
"""
_SOURCES = f"""
SELECT host(w.source_ip) AS source_ip, d.name AS domain, w.domain_id, {_COUNTS},
  (sum(w.messages) FILTER (WHERE w.dkim))::bigint AS dkim_aligned, (sum(w.messages) FILTER (WHERE w.spf))::bigint AS spf_aligned,
  (array_agg(DISTINCT w.header_from))[1:20] AS header_from, (array_agg(DISTINCT w.envelope_from))[1:20] AS envelope_from,
  (array_agg(DISTINCT r.organization))[1:20] AS reported_by
{_TOUCHED}
GROUP BY w.source_ip, w.domain_id, d.name
HAVING NOT $5 OR bool_or(NOT w.dkim AND NOT w.spf)
ORDER BY failed DESC NULLS LAST, messages DESC, w.source_ip, w.domain_id LIMIT $6 OFFSET $7
"""


async def domains(db: Connection, asked: Asked) -> list[asyncpg.Record]:
    """What is reported of each domain, by name; those that nobody reports of are left out."""
    found: list[asyncpg.Record] = await db.fetch(
        f"SELECT w.domain_id, d.name AS domain, {_COUNTS}, count(DISTINCT w.source_ip) AS sources, "
        "count(DISTINCT w.source_ip) FILTER (WHERE NOT w.dkim AND NOT w.spf) AS failing_sources, "
        f"count(DISTINCT w.report_id) AS reports {_TOUCHED} GROUP BY w.domain_id, d.name ORDER BY d.name LIMIT 1000",
        *(asked.since, asked.until, asked.domain_id, asked.proven),
    )
    return found


def as_rows(found: Sequence[Any]) -> list[ReceivedRow]:
    """Of `dsn.dmarc_report.Row`."""
    return [
        ReceivedRow(
            *(one.source_ip, one.messages, one.dkim, one.spf, one.disposition, one.header_from, one.envelope_from),
            *(one.reasons, one.results),
        )
        for one in found
    ]
