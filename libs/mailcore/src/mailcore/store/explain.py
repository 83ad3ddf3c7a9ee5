"""What became of an email, told to its organization. Reads only; the writers are store.deliveries and store.leases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.session import Connection


async def deliveries(db: Connection, email_id: UUID) -> list[dict[str, Any]]:
    """One a recipient, in the order of To, Cc, Bcc; empty when the organization has no such email. Role app."""
    attempts: dict[int, list[dict[str, Any]]] = {}
    sites: dict[int, str | None] = {}
    for row in await db.fetch(_ATTEMPTS, email_id):
        sites[row["n"]] = row["site"]
        attempts.setdefault(row["n"], []).append(
            {
                "attempt": row["attempt"],
                "at": row["at"].isoformat(),
                "outcome": row["outcome"],
                "site": row["site"],
                "mx_host": row["mx_host"],
                "mx_ip": row["mx_ip"],
                "source_ip": row["source_ip"],
                "tls": row["tls"],
                "tls_policy": row["tls_policy"],
                "code": row["code"],
                "enhanced_code": row["enhanced_code"],
                "reply": row["reply"],
                "rule": row["rule"],
                "possible_duplicate": row["possible_duplicate"],
                "conversation": [
                    {"at": datetime.fromtimestamp(at, UTC).isoformat(), who: line}
                    for at, who, line in row["conversation"] or ()
                ],
            }
        )
    return [
        {
            "recipient": row["recipient"],
            "state": row["state"],
            "site": row["site"] or sites.get(row["n"]),
            "possible_duplicate": row["possible_duplicate"],
            "next_attempt_at": _iso(row["due_at"]),
            "next_attempt": _next(row, attempts.get(row["n"], [])),
            "attempts": attempts.get(row["n"], []),
        }
        for row in await db.fetch(_DELIVERIES, email_id)
    ]


def _next(row: asyncpg.Record, attempts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """`{"at", "attempt", "why"}`; None: there is no further one."""
    if row["waiting"] is None:
        return None
    why: list[str] = []
    if row["state"] == "leased":
        why.append(f"Attempt {row['attempt']} is under way since {_iso(row['leased_at'])}.")
    elif row["state"] == "scheduled":
        why.append("It is scheduled for then.")
    elif not attempts:
        why.append("It has not been tried yet.")
    else:
        last = attempts[-1]
        words = " ".join(str(part) for part in (last["code"], last["enhanced_code"], last["reply"]) if part is not None)
        by = last["mx_host"] or last["site"] or "the last attempt"
        rule = f" (rule {last['rule']})" if last["rule"] else ""
        why.append(
            f"Attempt {last['attempt']} was deferred by {by}{rule}: {words or 'no answer'}. The schedule says when the next is."
        )
    if row["crashes"]:
        why.append(f"{row['crashes']} attempts ended with the death of their process: it is tried alone.")
    if row["suspended_until"] is not None and row["state"] != "leased":
        words = f": {row['last_reply']}" if row["last_reply"] else ""
        why.append(
            f"The site {row['site']} rests until {_iso(row['suspended_until'])}, after {row['failures']} failures{words}."
        )
    return {"at": _iso(row["due_at"]), "attempt": row["attempt"] + (row["state"] != "leased"), "why": " ".join(why)}


# ---- what would happen ----------------------------------------------------------------------------------------------

MOST_COUNTED = 1_000
"""Rows of a lane are counted up to so many."""


async def unsubscribed(db: Connection, recipient: str) -> list[asyncpg.Record]:
    """From the organization's broadcasts as a whole, by folded address. Role app."""
    rows: list[asyncpg.Record] = await db.fetch(
        "SELECT created_at, email_id FROM unsubscribes "
        "WHERE org_id = (SELECT current_org()) AND recipient = $1 AND list_id = '00000000-0000-0000-0000-000000000000'",
        recipient,
    )
    return rows


async def lane(db: Connection, domain: str, class_: int) -> asyncpg.Record | None:
    """`(id, waiting, due_at)` of the organization's lane: how many wait, and since when the first is due. Role app."""
    return await db.fetchrow(_LANE, domain, class_, MOST_COUNTED)


_LANE = """
SELECT l.id, (SELECT count(*) FROM (SELECT FROM queue q WHERE q.lane_id = l.id LIMIT $3) AS bounded) AS waiting,
       (SELECT q.due_at FROM queue q WHERE q.lane_id = l.id AND q.worker IS NULL AND q.crashes = 0
        ORDER BY q.due_at LIMIT 1) AS due_at
FROM lanes l WHERE l.org_id = (SELECT current_org()) AND l.domain = $1 AND l.class = $2
"""


async def site(db: Connection, domain: str) -> dict[str, Any] | None:
    """Where the domain's mail goes, and how that site is; times are ISO 8601. Role worker."""
    found: dict[str, Any] | None = await db.fetchval(
        "SELECT to_jsonb(s) FROM recipient_domains r JOIN sites s ON s.id = r.site_id WHERE r.domain = $1", domain
    )
    return found


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


# while a worker holds the row there is no next attempt: this one is under way
_DELIVERIES = """
SELECT d.n, d.recipient, d.possible_duplicate OR coalesce(q.possible_duplicate, false) AS possible_duplicate, s.key AS site,
       CASE WHEN q.worker IS NOT NULL THEN 'leased' ELSE d.state END AS state,
       CASE WHEN q.worker IS NULL THEN q.due_at END AS due_at, q.email_id AS waiting, q.attempt, q.leased_at, q.crashes,
       CASE WHEN s.suspended_until > now() THEN s.suspended_until END AS suspended_until, s.failures, s.last_reply
FROM deliveries d
LEFT JOIN queue q ON q.email_id = d.email_id AND q.n = d.n
LEFT JOIN lanes l ON l.id = q.lane_id
LEFT JOIN recipient_domains r ON r.domain = l.domain
-- which way of a route its mail will take is known when it leaves: attempts say which it took
LEFT JOIN sites s ON s.id = r.site_id AND l.route_id = 0
WHERE d.email_id = $1
ORDER BY d.n
"""
_ATTEMPTS = """
SELECT n, attempt, at, outcome, site, mx_host, mx_ip, source_ip, tls, tls_policy, code, enhanced_code, reply, rule,
       possible_duplicate,
       conversation
FROM attempts WHERE email_id = $1 ORDER BY n, attempt
"""
