"""What became of an email, told to its organization. Reads only; the writers are store.deliveries and store.leases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.store.session import Connection
from mailcore.store.ways import TAKEN


@dataclass(frozen=True, slots=True)
class Held:
    reason: str
    until: datetime | None
    """None: until it is resumed."""


async def held(db: Connection, org_id: UUID, email_id: UUID) -> dict[int, Held]:
    """By recipient why its mail is held, by the operator or by a rule, and until when: the hold that ends last; most are not the
    organization's to read. Role worker."""
    rows = await db.fetch(_HELD, org_id, email_id)
    return {row["n"]: Held(row["reason"], row["until"]) for row in rows}


def held_words(reason: str, until: str | None) -> str:
    """`held until …: moving house.`"""
    words = reason.rstrip(".")
    return f"held until {until or 'it is resumed'}{f': {words}' if words else ''}."


# what a site said about another organization's mail may name its recipients
_REASON = "CASE WHEN h.origin = 'operator' OR h.org_id IS NOT NULL THEN h.reason ELSE 'a rule, for what the site has said' END"
_HELD = f"""
SELECT DISTINCT ON (q.n) q.n, {_REASON} AS reason, h.until
FROM queue q JOIN lanes l ON l.id = q.lane_id JOIN recipient_domains r ON r.domain = l.domain
{TAKEN}
JOIN holds h ON (h.site_id IS NULL OR h.site_id = s.id) AND (h.org_id IS NULL OR h.org_id = q.org_id)
WHERE q.email_id = $2 AND q.org_id = $1 AND (h.until IS NULL OR h.until > now())
ORDER BY q.n, h.until DESC NULLS FIRST, h.id
"""


async def deliveries(
    db: Connection, email_id: UUID, held: Mapping[int, Held] | None = None, waits: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """One a recipient, in the order of To, Cc, Bcc; empty when the organization has no such email. Role app, in a
    snapshot: else an attempt that ends meanwhile shows its state and not itself. `waits`: what those that are put off wait for
    (store.waiting.of_email)."""
    held, waits = held or {}, waits or {}
    reports = await _reports(db, email_id)
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
                "category": row["category"],
                "category_rule": row["category_rule"],
                "possible_duplicate": row["possible_duplicate"],
                "conversation": [
                    {"at": datetime.fromtimestamp(at, UTC).isoformat(), who: line}
                    for at, who, line in row["conversation"] or ()
                ],
            }
        )
    shown = []
    for row in await db.fetch(_DELIVERIES, email_id):
        n = row["n"]
        next_ = _next(row, attempts.get(n, []), held.get(n), waits.get(n))
        shown.append(
            {
                "recipient": row["recipient"],
                "state": row["state"],
                "site": row["site"] or sites.get(n),
                "possible_duplicate": row["possible_duplicate"],
                "next_attempt_at": None if next_ is None else next_["at"],
                "next_attempt": next_,
                "attempts": attempts.get(n, []),
                "reports": reports.get(n, []),
            }
        )
    return shown


async def _reports(db: Connection, email_id: UUID) -> dict[int, list[dict[str, Any]]]:
    """By recipient the delivery reports that are owed to who handed the mail in by SMTP, or were written."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in await db.fetch(_REPORTS, email_id):
        found.setdefault(row["n"], []).append(
            {
                "action": row["action"],
                "at": _iso(row["created_at"]),
                "email_id": None if row["report_id"] is None else str(row["report_id"]),
                "given_up": row["given_up"],
            }
        )
    return found


_REPORTS = """
SELECT n, action, created_at, report_id, given_up FROM reports_owed WHERE email_id = $1 ORDER BY n, created_at, action
"""


def _next(
    row: asyncpg.Record, attempts: list[dict[str, Any]], held: Held | None, waits: str | None
) -> dict[str, Any] | None:
    """`{"at", "attempt", "why"}`; None: there is no further one. `at`: not before its site has rested and holds have ended; None
    where it is under way, or nobody knows."""
    if row["waiting"] is None:
        return None
    why: list[str] = []
    orders, attempts = [a for a in attempts if a["attempt"] < 0], [a for a in attempts if a["attempt"] >= 0]
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
        if last["attempt"]:
            why.append(
                f"Attempt {last['attempt']} was deferred by {by}{rule}: {words or 'no answer'}. The schedule says when the next is."
            )
        else:
            why.append(
                f"It was turned away by {by}: {words}. That does not count as an attempt: it is due again at once."
            )
    if orders and row["state"] != "leased":
        why.append(orders[0]["reply"])  # the latest
    if row["crashes"]:
        why.append(f"{row['crashes']} attempts ended with the death of their process: it is tried alone.")
    if row["state"] == "leased":
        return {"at": None, "attempt": row["attempt"], "why": " ".join(why)}
    if row["waits_for"] is not None:
        why.append(f"It is put off{f': {waits}' if waits else ''}. That costs no attempt; it leaves as soon as it may.")
    at = row["due_at"]
    if held is not None:
        why.append("It is " + held_words(held.reason, _iso(held.until)))
        at = None if held.until is None else max(at, held.until)
    if row["suspended_until"] is not None:
        words = rest_words(_iso(row["suspended_until"]), row["failures"], row["last_reply"])
        why.append(f"The site {row['site']} {words}")
        at = at and max(at, row["suspended_until"])
    return {"at": _iso(at), "attempt": row["attempt"] + 1, "why": " ".join(why)}


def rest_words(until: str | None, failures: int, reply: str | None) -> str:
    """`rests until …, after 3 failures in a row: 421 later.`"""
    after = "1 failure" if failures == 1 else f"{failures} failures in a row"
    return f"rests until {until}, after {after}{f': {reply}'.rstrip('.') if reply else ''}."


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


async def lane(db: Connection, domain: str, class_: int, route: int = 0) -> asyncpg.Record | None:
    """`(id, waiting, due_at)` of the organization's lane: how many wait, and since when the first is due. Role app."""
    return await db.fetchrow(_LANE, domain, class_, MOST_COUNTED, route)


_LANE = """
SELECT l.id, (SELECT count(*) FROM (SELECT FROM queue q WHERE q.lane_id = l.id LIMIT $3) AS bounded) AS waiting,
       (SELECT q.due_at FROM queue q WHERE q.lane_id = l.id AND q.worker IS NULL AND q.crashes = 0
        ORDER BY q.due_at LIMIT 1) AS due_at
FROM lanes l WHERE l.org_id = (SELECT current_org()) AND l.domain = $1 AND l.class = $2 AND l.route_id = $4
"""


async def ways(db: Connection, route: int, org_id: UUID, domain: str) -> list[dict[str, Any]]:
    """Of a route in order: `place, name, kind, enabled, resting, held, site_id`; kind NULL is the installation's own, whose site is
    that domain's. Role worker."""
    return [dict(row) for row in await db.fetch(_WAYS, route, org_id, domain)]


# as the statement that finds due lanes has it (store.ways)
_WAYS = """
SELECT u.place, w.name, w.kind, coalesce(w.enabled, true) AS enabled,
       coalesce(s.suspended_until > now(), false) AS resting,
       EXISTS (SELECT FROM holds h WHERE h.site_id = s.id AND (h.org_id = $2 OR h.org_id IS NULL)
                 AND (h.until IS NULL OR h.until > now())) AS held, s.id AS site_id
FROM routes_out o CROSS JOIN LATERAL unnest(o.ways) WITH ORDINALITY AS u (id, place)
LEFT JOIN ways w ON w.id = u.id
LEFT JOIN sites s ON s.id = coalesce(w.site_id, (SELECT r.site_id FROM recipient_domains r WHERE r.domain = $3))
WHERE o.lane_route = $1 AND (w.id IS NOT NULL OR u.id = '00000000-0000-0000-0000-000000000000')
ORDER BY u.place
"""


async def site(
    db: Connection, domain: str, site_id: int | None = None, key: str | None = None
) -> dict[str, Any] | None:
    """That site, or where the domain's mail goes, and how it is, without what it has said about anybody's mail. `key`: of the site
    that the domain's next mail will show it to have. Role worker."""
    row = await db.fetchrow(_SITE, domain, site_id, key)
    return (
        None
        if row is None
        else {**row, "suspended_until": _iso(row["suspended_until"]), "slow_until": _iso(row["slow_until"])}
    )


# where the site rests that the domain points to, nobody asks for another before that is over
_SITE = """
SELECT s.id, s.key, s.max_connections, s.limits, s.failures, s.last_reply,
       CASE WHEN s.suspended_until > now() THEN s.suspended_until END AS suspended_until,
       CASE WHEN s.slow_until > now() THEN s.slow_until END AS slow_until
FROM sites s
WHERE s.id IN (
  SELECT $2::bigint
  UNION ALL SELECT k.id FROM sites k WHERE k.key = $3 AND $2::bigint IS NULL
  UNION ALL SELECT r.site_id FROM recipient_domains r WHERE r.domain = $1 AND $2::bigint IS NULL)
ORDER BY s.key IS DISTINCT FROM $3 AND s.suspended_until > now() DESC NULLS LAST, s.key IS NOT DISTINCT FROM $3 DESC LIMIT 1
"""


async def holds(db: Connection, org_id: UUID, site_id: int | None) -> list[dict[str, Any]]:
    """What keeps the organization's mail to that site back. Role worker."""
    rows = await db.fetch(_HOLDS, org_id, site_id)
    return [{**row, "until": _iso(row["until"])} for row in rows]


_HOLDS = f"""
SELECT h.origin, {_REASON} AS reason, h.until FROM holds h
WHERE (h.org_id IS NULL OR h.org_id = $1) AND (h.site_id IS NULL OR h.site_id = $2) AND (h.until IS NULL OR h.until > now())
ORDER BY h.until DESC NULLS FIRST, h.id
"""


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


# while a worker holds the row there is no next attempt: this one is under way
_DELIVERIES = """
SELECT d.n, d.recipient, d.possible_duplicate OR coalesce(q.possible_duplicate, false) AS possible_duplicate, s.key AS site,
       CASE WHEN q.worker IS NOT NULL THEN 'leased' ELSE d.state END AS state,
       CASE WHEN q.worker IS NULL THEN q.due_at END AS due_at, q.email_id AS waiting, q.attempt, q.leased_at, q.crashes,
       CASE WHEN s.suspended_until > now() THEN s.suspended_until END AS suspended_until, s.failures, s.last_reply, q.waits_for
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
SELECT n, attempt, at, outcome, site, mx_host, mx_ip, source_ip, tls, tls_policy, code, enhanced_code, reply, rule, category,
       category_rule, possible_duplicate, conversation
FROM attempts WHERE email_id = $1 ORDER BY n, attempt
"""
