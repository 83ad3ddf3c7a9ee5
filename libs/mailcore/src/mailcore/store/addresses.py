"""Addresses that somebody made, beside mailboxes: aliases, and those that are refused; and how their domains receive. Role app.

find_receiving, lookup      before the tenant is known: the MX at RCPT
resolve                     role worker: where the router puts a mail
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.ids import uuid7
from mailcore.store import pages
from mailcore.store.pages import Page, Slice
from mailcore.store.session import Connection, Store

MAX_TARGETS = 100
SEPARATOR = "+"
"""Of a sub-address: what follows it in a local part is a tag (RFC 5233)."""
ALWAYS = frozenset(("postmaster", "abuse"))
"""Every domain takes mail to them, whatever it does with unknown addresses (RFC 5321 §4.5.1, RFC 2142)."""
REPORTS = frozenset(("dmarc", "tls-reports"))
"""What our advice names in DNS records for reports (flow.advice). They are taken unless somebody has made them and refuses them;
and at the return path's name of a domain that sends, whether it receives or not: our MX is there."""


@dataclass(frozen=True, slots=True)
class Receiving:
    """How a domain receives."""

    org_id: UUID
    domain_id: UUID
    catch_all: str
    """create, mailbox, reject."""
    subaddressing: bool
    greylisting: bool
    listed: bool
    """Whether it is worth asking for an address of it: not all are taken."""


@dataclass(frozen=True, slots=True)
class Led:
    kind: str
    """alias; catch_all: nobody made it; whole: its domain has no sub-addresses."""
    boxes: tuple[str, ...]


def base_of(local: str) -> str:
    """Of a local part in lower case: without its tag. A quoted one has none, and neither has one that is nothing else."""
    return local if local.startswith('"') else local.partition(SEPARATOR)[0] or local


async def find_receiving(store: Store, name: str) -> Receiving | None:
    """None: that domain does not receive here. Raises Unavailable."""
    rows = await store.lookup("SELECT * FROM lookup_receiving($1)", name)
    return Receiving(**dict(rows[0])) if rows else None


async def lookup(store: Store, wanted: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], str]:
    """Domain and local part → mailbox, alias, reject; of unknown ones nothing. Raises Unavailable."""
    rows = await store.lookup(
        "SELECT * FROM lookup_addresses($1, $2)", [each[0] for each in wanted], [each[1] for each in wanted]
    )
    return {(row["domain_id"], row["local"]): row["kind"] for row in rows}


async def reports_of(db: Connection, name: str) -> UUID | None:
    """Whose domain's return paths have this name, of a domain that may send. Role worker."""
    found: UUID | None = await db.fetchval(
        "SELECT org_id FROM domains WHERE name = $2 AND custom_return_path || '.' || name = $1 AND sending "
        "AND (status = 'verified' OR status IN ('partially_verified', 'partially_failed') AND lacking = 'receiving') LIMIT 1",
        *(name, name.partition(".")[2]),
    )
    return found


async def resolve(db: Connection, wanted: Collection[tuple[UUID, str]]) -> dict[tuple[UUID, str], Led]:
    """Organization and recipient in lower case → the mailboxes that mail to it lies in; only those which are not simply the
    recipient without its tag. A target is not resolved again: an alias of an alias is a mailbox of that name."""
    rows = await db.fetch(
        _RESOLVE,
        [org_id for org_id, _ in wanted],
        [address for _, address in wanted],
        [base_of(address.rpartition("@")[0]) for _, address in wanted],
        sorted(ALWAYS),
    )
    return {(row["org_id"], row["address"]): Led(row["kind"], tuple(row["boxes"])) for row in rows}


# ---- by hand ------------------------------------------------------------------------------------------------------------


async def page(db: Connection, asked: Page, *, domain_id: UUID | None = None) -> Slice:
    if domain_id is None:
        return await pages.fetch(db, _SELECT + "WHERE true", [], asked, column="a.id")
    return await pages.fetch(db, _SELECT + "WHERE a.domain_id = $1", [domain_id], asked, column="a.id")


async def find(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(_SELECT + "WHERE a.id = $1", id_)


async def create(
    db: Connection, org_id: UUID, address: str, *, kind: str, targets: Sequence[str]
) -> tuple[UUID | None, bool]:
    """Its id; None: there is one. And whether the domain is one of the organization's: else nothing was made."""
    local, _, domain = address.rpartition("@")
    domain_id = await db.fetchval("SELECT id FROM domains WHERE name = $1", domain)
    if domain_id is None:
        return None, False
    made: UUID | None = await db.fetchval(
        "INSERT INTO addresses (id, org_id, domain_id, local, kind, targets) VALUES ($1, $2, $3, $4, $5, $6) "
        "ON CONFLICT (domain_id, local) DO NOTHING RETURNING id",
        *(uuid7(), org_id, domain_id, local, kind, list(targets)),
    )
    return made, True


async def update(db: Connection, id_: UUID, *, kind: str, targets: Sequence[str]) -> bool:
    """False: there is none."""
    done = await db.fetchval(
        "UPDATE addresses SET kind = $2, targets = $3 WHERE id = $1 RETURNING true", id_, kind, list(targets)
    )
    return bool(done)


async def delete(db: Connection, id_: UUID) -> bool:
    """False: there is none."""
    return bool(await db.fetchval("DELETE FROM addresses WHERE id = $1 RETURNING true", id_))


async def foreign_domains(db: Connection, names: Collection[str]) -> list[str]:
    """Those that are no domains of the organization."""
    rows = await db.fetch("SELECT name FROM domains WHERE name = ANY ($1)", sorted(set(names)))
    return sorted(set(names) - {row["name"] for row in rows})


# ---- how a domain receives ----------------------------------------------------------------------------------------------

SETTINGS = (
    *("catch_all", "catch_all_mailbox", "subaddressing", "greylisting", "dmarc_policy"),
    *("spam_action", "spam_score", "unsure_score", "malware_action", "subject_tag", "compatible_headers"),
)
"""Columns of `domains` that say how it receives. A new one is a line here and in api.domains.receiving."""


async def receiving(db: Connection, domain_id: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"SELECT id, name, {', '.join(SETTINGS)} FROM domains WHERE id = $1", domain_id)


async def change_receiving(db: Connection, domain_id: UUID, changed: Mapping[str, Any]) -> asyncpg.Record | None:
    """`changed`: of SETTINGS. None: there is no such domain."""
    names = [name for name in SETTINGS if name in changed]
    if names:
        sets = ", ".join(f"{name} = ${n}" for n, name in enumerate(names, 2))
        await db.execute(f"UPDATE domains SET {sets} WHERE id = $1", domain_id, *(changed[name] for name in names))
    return await receiving(db, domain_id)


_SELECT = """
SELECT a.id, a.kind, a.local || '@' || d.name AS address, a.targets, a.created_at, a.domain_id
FROM addresses a JOIN domains d ON d.id = a.domain_id
"""

_RESOLVE = """
SELECT w.org_id, w.address, r.kind, r.boxes
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS w (org_id, address, base)
JOIN domains d ON d.org_id = w.org_id AND d.name = substring(w.address from '[^@]*$'),
LATERAL (SELECT left(w.address, -length(d.name) - 1) AS local, CASE WHEN d.subaddressing THEN w.base END AS base) AS l,
LATERAL (
  SELECT 'alias' AS kind, a.targets AS boxes, (a.local <> l.local)::int AS place FROM addresses a
  WHERE a.domain_id = d.id AND a.local IN (l.local, l.base) AND a.kind = 'alias'
  UNION ALL
  SELECT 'catch_all', ARRAY[d.catch_all_mailbox], 2
  WHERE d.catch_all = 'mailbox' AND coalesce(l.base, l.local) <> ALL ($4::text[]) AND NOT EXISTS (
    SELECT FROM mailboxes b WHERE b.org_id = w.org_id AND b.account_id IS NULL
      AND b.address IN (w.address, l.base || '@' || d.name))
  UNION ALL
  SELECT 'whole', ARRAY[w.address], 3 WHERE NOT d.subaddressing
  ORDER BY place LIMIT 1
) AS r
"""
