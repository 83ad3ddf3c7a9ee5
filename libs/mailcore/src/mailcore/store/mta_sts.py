"""MTA-STS policies: those of others, kept as long as they say (role worker), and those that our own domains publish (role app)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from mailcore.store.session import Connection, Store

# ---- of recipient domains --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of a domain's policy. Times are by the database's clock."""

    policy_id: str | None
    """None: none was ever fetched."""
    mode: str | None
    mx: tuple[str, ...]
    max_age: int
    alive: bool
    """Its life has not ended (RFC 8461 §3.2, max_age)."""
    stale: bool
    """Seen more than a day ago: it is time to see whether it is still so (RFC 8461 §10.2)."""
    resting: bool
    """A try to fetch it failed a short while ago."""
    failure: str | None
    reason: str | None


async def kept(db: Connection, domain: str) -> Kept | None:
    return (await all_kept(db, [domain])).get(domain)


async def all_kept(db: Connection, domains: Collection[str]) -> dict[str, Kept]:
    """Of those of which anything is known."""
    rows = await db.fetch(_KEPT, list(domains))
    return {row[0]: Kept(row[1], row[2], tuple(row[3] or ()), row[4] or 0, *row[5:]) for row in rows}


_KEPT = """
SELECT domain, policy_id, mode, mx, max_age, coalesce(fetched_at + make_interval(secs => max_age) > now(), false),
       coalesce(fetched_at < now() - interval '1 day', true), coalesce(retry_at > now(), false), failure, reason
FROM mta_sts_policies WHERE domain = ANY ($1::text[])
"""


async def keep(db: Connection, domain: str, policy_id: str, mode: str, mx: Sequence[str], max_age: int) -> None:
    await db.execute(_KEEP, domain, policy_id, mode, list(mx), max_age)


_KEEP = """
INSERT INTO mta_sts_policies (domain, policy_id, mode, mx, max_age, fetched_at) VALUES ($1, $2, $3, $4, $5, now())
ON CONFLICT (domain) DO UPDATE SET policy_id = excluded.policy_id, mode = excluded.mode, mx = excluded.mx,
  max_age = excluded.max_age, fetched_at = now(), failure = NULL, reason = NULL, retry_at = NULL
"""


async def failed(db: Connection, domain: str, failure: str, reason: str, *, rest: float) -> None:
    """A policy that was kept stays. Not tried again for `rest` seconds."""
    await db.execute(
        "INSERT INTO mta_sts_policies (domain, failure, reason, retry_at) VALUES ($1, $2, $3, now() + make_interval(secs => $4)) "
        "ON CONFLICT (domain) DO UPDATE SET failure = excluded.failure, reason = excluded.reason, retry_at = excluded.retry_at",
        *(domain, failure, reason, rest),
    )


async def forget_old(db: Connection) -> None:
    """Policies whose life has ended, and failures of domains without one, both a day later."""
    await db.execute(
        "DELETE FROM mta_sts_policies WHERE coalesce(fetched_at + make_interval(secs => max_age), '-infinity') "
        "< now() - interval '1 day' AND coalesce(retry_at, '-infinity') < now() - interval '1 day'"
    )


# ---- of our own domains ----------------------------------------------------------------------------------------------


async def published(store: Store, domain: str) -> asyncpg.Record | None:
    """mode, max_age and mx (hosts besides ours) of a domain that receives here; None: it publishes no policy."""
    rows = await store.lookup("SELECT * FROM lookup_mta_sts($1)", domain)
    return rows[0] if rows else None


async def is_our_host(store: Store, host: str, parents: Sequence[str]) -> bool:
    """Whether a verified domain of ours uses it: `mta-sts.` of one with a policy, or a tracking host."""
    rows = await store.lookup("SELECT lookup_tls_host($1, $2)", host, list(parents))
    return bool(rows[0][0])


async def of_domain(db: Connection, domain_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow("SELECT mode, max_age, mx, changed_at FROM domain_mta_sts WHERE domain_id = $1", domain_id)


async def publish(db: Connection, org_id: UUID, domain_id: UUID, mode: str, max_age: int, mx: Sequence[str]) -> None:
    await db.execute(
        "INSERT INTO domain_mta_sts (domain_id, org_id, mode, max_age, mx) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (domain_id) DO UPDATE SET mode = excluded.mode, max_age = excluded.max_age, mx = excluded.mx, "
        "changed_at = now()",
        *(domain_id, org_id, mode, max_age, list(mx)),
    )


async def withdraw(db: Connection, domain_id: UUID) -> None:
    await db.execute("DELETE FROM domain_mta_sts WHERE domain_id = $1", domain_id)


async def hosts(db: Connection, after: str, limit: int) -> list[str]:
    """All hosts of customers' domains that need a certificate from us, in order, after that one. Role worker."""
    rows = await db.fetch(_HOSTS, after, limit)
    return [row["host"] for row in rows]


_HOSTS = """
SELECT DISTINCT host FROM (
  SELECT 'mta-sts.' || d.name FROM domains d JOIN domain_mta_sts s ON s.domain_id = d.id
   WHERE d.status IN ('verified', 'partially_verified', 'partially_failed')
  UNION ALL
  SELECT each || '.' || d.name FROM domains d, unnest(d.tracking_subdomain || d.old_tracking) AS each
   WHERE each IS NOT NULL AND d.status IN ('verified', 'partially_verified', 'partially_failed')
) AS all_ (host)
WHERE host > $1 ORDER BY host LIMIT $2
"""
