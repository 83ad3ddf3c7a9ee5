"""What became of an email, told to its organization. Reads only; the writers are store.deliveries and store.leases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.store.session import Connection


async def deliveries(db: Connection, email_id: UUID) -> list[dict[str, Any]]:
    """One a recipient, in the order of To, Cc, Bcc; empty when the organization has no such email. Role app."""
    attempts: dict[int, list[dict[str, Any]]] = {}
    sites: dict[int, str | None] = {}
    for row in await db.fetch(_ATTEMPTS, email_id):
        sites[row["n"]] = row["site"]
        attempts.setdefault(row["n"], []).append(
            {
                "at": row["at"].isoformat(),
                "outcome": row["outcome"],
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
            "attempts": attempts.get(row["n"], []),
        }
        for row in await db.fetch(_DELIVERIES, email_id)
    ]


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


# while a worker holds the row there is no next attempt: this one is under way
_DELIVERIES = """
SELECT d.n, d.recipient, d.possible_duplicate OR coalesce(q.possible_duplicate, false) AS possible_duplicate, s.key AS site,
       CASE WHEN q.worker IS NOT NULL THEN 'leased' ELSE d.state END AS state,
       CASE WHEN q.worker IS NULL THEN q.due_at END AS due_at
FROM deliveries d
LEFT JOIN queue q ON q.email_id = d.email_id AND q.n = d.n
LEFT JOIN lanes l ON l.id = q.lane_id
LEFT JOIN recipient_domains r ON r.domain = l.domain
LEFT JOIN sites s ON s.id = r.site_id
WHERE d.email_id = $1
ORDER BY d.n
"""
_ATTEMPTS = """
SELECT n, at, outcome, site, mx_host, mx_ip, source_ip, tls, tls_policy, code, enhanced_code, reply, rule,
       possible_duplicate, conversation
FROM attempts WHERE email_id = $1 ORDER BY n, attempt
"""
