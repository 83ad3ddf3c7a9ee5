"""Pools and the addresses in them: what the operator says, and what runners read of it. No tenant in these tables. Role worker.

1. `read`     all of it at one moment, for a process that sends: one statement
2. pools      whose mail they carry (`pool_serves`), where what has no room goes
3. sources    an IPv4 address, an IPv6 address, or one of each under one EHLO name
4. hosts      which machine can bind them

How much a source may send today is `store.warmups`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.kit.errors import Conflict, Invalid, NotFound
from mailcore.kit.ids import uuid7
from mailcore.store import ways
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection
from mailcore.store.waiting import let_go

TRANSACTIONAL, BROADCAST = 0, 1
"""Classes of mail, as lanes have them."""
HOST_SECONDS = 300
"""A host that has not looked for so long counts no more."""
MAX_WAITING = 10_000
"""Waiting rows are counted up to this many."""

OVERFLOW = "pool-overflow"
"""Tag of the routes that pools' overflow takes (`routes_out`); its value is the pool's id. No mail has it."""

Serves = Sequence[tuple[str, int]]
"""Sending domain, empty for every one, and class."""


# ---- 1. read ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownWarmup:
    id: UUID
    state: str
    """warming, paused, warm."""
    begun: bool
    """Today has its row: `cap` and `leased` are today's."""
    cap: int | None
    """Mails today; None: no limit."""
    leased: int
    subject: str = ""
    """The address as the world sees it, or the sending domain."""
    used: int = 0
    """Of what was leased, what was sent and told."""


@dataclass(frozen=True, slots=True)
class KnownSource:
    id: UUID
    pool_id: UUID
    ip4: str | None
    """What is bound, without prefix length."""
    ip6: str | None
    ehlo: str
    paused: bool
    """By the operator."""
    unbound: bool
    """No host that looked lately can bind it."""
    warmup: KnownWarmup
    outside: tuple[str, ...] = ()
    """Its addresses as the world sees them; behind a NAT they are others than those that are bound."""


@dataclass(frozen=True, slots=True)
class KnownPool:
    id: UUID
    name: str
    overflow: int | None
    """The route (`lanes.route_id`) of what has no room; None: it waits."""
    serves_all: tuple[int, ...]
    """Classes of every domain's mail."""
    serves: tuple[tuple[UUID, int], ...]
    """Sending domains and classes of its own."""
    sources: tuple[KnownSource, ...]
    """Those that came first stand first."""


@dataclass(frozen=True, slots=True)
class KnownBar:
    source_id: UUID
    place: str
    """See `store.bars`."""
    seconds: float
    """That it lasts from now on."""


@dataclass(frozen=True, slots=True)
class Known:
    pools: tuple[KnownPool, ...]
    domains: tuple[tuple[UUID, KnownWarmup], ...]
    """Sending domains in warm-up; a name that two organizations have not proved yet stands here twice."""
    bars: tuple[KnownBar, ...]
    """In force."""


async def read(db: Connection, today: date) -> Known:
    row = await db.fetchrow(_READ, today, HOST_SECONDS)
    assert row is not None
    warmups = {each["id"]: _known_warmup(each) for each in row["warmups"]}
    sources: dict[str, list[KnownSource]] = {}
    for each in row["sources"]:
        sources.setdefault(each["pool_id"], []).append(
            KnownSource(
                UUID(each["id"]),
                UUID(each["pool_id"]),
                each["ip4"],
                each["ip6"],
                each["ehlo_name"],
                each["paused"],
                each["unbound"],
                warmups[each["warmup_id"]],
                tuple(each["outside"]),
            )
        )
    pools = tuple(
        KnownPool(
            UUID(each["id"]),
            each["name"],
            each["overflow"],
            tuple(serves["class"] for serves in each["serves"] if not serves["domain"]),
            tuple((UUID(id_), serves["class"]) for serves in each["serves"] for id_ in serves["ids"]),
            tuple(sources.get(each["id"], ())),
        )
        for each in row["pools"]
    )
    domains = tuple((UUID(each["domain_id"]), warmups[each["id"]]) for each in row["warmups"] if each["domain_id"])
    bars = tuple(KnownBar(UUID(each["source_id"]), each["place"], each["seconds"]) for each in row["bars"])
    return Known(pools, domains, bars)


def _known_warmup(row: dict[str, Any]) -> KnownWarmup:
    return KnownWarmup(
        UUID(row["id"]), row["state"], row["begun"], row["cap"], row["leased"], row["subject"], row["used"]
    )


_READ = f"""
SELECT
  (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.id), '[]') FROM (
     SELECT id, name,
            (SELECT o.lane_route FROM routes_out o
             WHERE o.org_id IS NULL AND o.tag_name = '{OVERFLOW}' AND o.tag_value = pools.id::text) AS overflow,
            (SELECT coalesce(jsonb_agg(jsonb_build_object(
                      'domain', s.domain, 'class', s.class,
                      'ids', (SELECT coalesce(jsonb_agg(d.id), '[]') FROM domains d WHERE d.name = s.domain))), '[]')
             FROM pool_serves s WHERE s.pool_id = pools.id) AS serves
     FROM pools) p) AS pools,
  (SELECT coalesce(jsonb_agg(to_jsonb(s) ORDER BY s.id), '[]') FROM (
     SELECT s.id, s.pool_id, host(coalesce(s.local_ipv4, s.ipv4)) AS ip4, host(coalesce(s.local_ipv6, s.ipv6)) AS ip6,
            array_remove(ARRAY[host(s.ipv4), host(s.ipv6)], NULL) AS outside,
            s.ehlo_name, s.paused_at IS NOT NULL AS paused, w.id AS warmup_id,
            coalesce((SELECT bool_and(NOT h.usable) FROM source_hosts h
                      WHERE h.source_id = s.id AND h.seen_at > now() - make_interval(secs => $2::float8)), false) AS unbound
     FROM sources s JOIN warmups w ON w.source_id = s.id) s) AS sources,
  (SELECT coalesce(jsonb_agg(to_jsonb(w)), '[]') FROM (
     SELECT w.id, w.state, d.id AS domain_id, t.day IS NOT NULL AS begun, t.cap, coalesce(t.leased, 0) AS leased,
            coalesce(t.attempts, 0) AS used,
            coalesce(w.domain, (SELECT host(coalesce(s.ipv4, s.ipv6)) FROM sources s WHERE s.id = w.source_id), '') AS subject
     FROM warmups w
     LEFT JOIN warmup_days t ON t.warmup_id = w.id AND t.day = $1::date
     LEFT JOIN domains d ON d.name = w.domain) w) AS warmups,
  (SELECT coalesce(jsonb_agg(to_jsonb(b)), '[]') FROM (
     SELECT source_id, place, extract(epoch FROM until - now())::float8 AS seconds FROM source_bars WHERE until > now()) b) AS bars
"""


# ---- 2. pools --------------------------------------------------------------------------------------------------------


async def add_pool(db: Connection, name: str, serves: Serves, overflow: UUID | None) -> UUID:
    """Raises Conflict: the name is taken, or another pool carries such mail already; Invalid: there is no such way."""
    id_ = uuid7()
    made = await db.fetchval(
        "INSERT INTO pools (id, name, overflow) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING RETURNING id",
        id_,
        name,
        overflow,
    )
    if made is None:
        raise Conflict(f"There is a pool named {name} already.")
    await _serve(db, id_, serves)
    await _overflow(db, id_, overflow)
    return id_


async def change_pool(
    db: Connection, id_: UUID, *, name: str | None, serves: Serves | None, overflow: tuple[UUID | None] | None
) -> None:
    """What is None stays as it is; `overflow` is a tuple of one. Raises NotFound, and as `add_pool`."""
    if await db.fetchval("SELECT id FROM pools WHERE id = $1 FOR UPDATE", id_) is None:
        raise NotFound("Pool not found")
    if name is not None:
        if await db.fetchval("SELECT id FROM pools WHERE name = $1 AND id <> $2", name, id_) is not None:
            raise Conflict(f"There is a pool named {name} already.")
        await db.execute("UPDATE pools SET name = $2 WHERE id = $1", id_, name)
    if overflow is not None:
        await db.execute("UPDATE pools SET overflow = $2 WHERE id = $1", id_, overflow[0])
        await _overflow(db, id_, overflow[0])
    if serves is not None:
        await db.execute("DELETE FROM pool_serves WHERE pool_id = $1", id_)
        await _serve(db, id_, serves)


async def _serve(db: Connection, pool_id: UUID, serves: Serves) -> None:
    wanted = sorted(set(serves))
    made = await db.fetch(
        "INSERT INTO pool_serves (domain, class, pool_id) SELECT t.domain, t.class, $1 "
        "FROM unnest($2::text[], $3::smallint[]) AS t (domain, class) ON CONFLICT DO NOTHING RETURNING domain, class",
        pool_id,
        [domain for domain, _ in wanted],
        [class_ for _, class_ in wanted],
    )
    taken = set(wanted) - {(row["domain"], row["class"]) for row in made}
    if taken:
        domain, class_ = min(taken)
        mail = "broadcasts" if class_ == BROADCAST else "transactional mail"
        raise Conflict(f"Another pool carries {mail} of {domain or 'every domain'}. Change that one first.")


async def _overflow(db: Connection, pool_id: UUID, way_id: UUID | None) -> None:
    """The route of what has no room: to one way of the installation, and back to where it came from while that one rests, to wait
    for room. What waits in a route that is gone goes the default way."""
    mine = "org_id IS NULL AND tag_name = $1 AND tag_value = $2"
    before = await db.fetchval(f"SELECT id FROM routes_out WHERE {mine}", OVERFLOW, str(pool_id))
    if way_id is None:
        if before is not None:
            await ways.remove_route(db, None, before)
        return
    if not await ways.known(db, None, [way_id]):
        raise Invalid("The installation has no such way out: see /v1/installation/ways.", field="overflow")
    named = [way_id, ways.DEFAULT]
    if before is not None:
        await ways.change_route(db, None, before, named)
    else:
        tag = {"tag_name": OVERFLOW, "tag_value": str(pool_id)}
        await ways.add_route(db, route_id=uuid7(), org_id=None, for_org=None, domain_id=None, ways=named, **tag)


async def remove_pool(db: Connection, id_: UUID) -> None:
    """Mail that waits for room in it is due at once. Raises NotFound, and Conflict while it has sources."""
    await let_go(db, id_)
    await _overflow(db, id_, None)
    if await db.fetchval("SELECT count(*) FROM sources WHERE pool_id = $1", id_):
        raise Conflict("The pool has sources. Move or remove them first.")
    if await db.fetchval("DELETE FROM pools WHERE id = $1 RETURNING id", id_) is None:
        raise NotFound("Pool not found")


async def find_pool(db: Connection, name: str) -> UUID | None:
    """By its name, or by its id."""
    found: UUID | None = await db.fetchval("SELECT id FROM pools WHERE name = $1 OR id::text = $1", name)
    return found


async def pools(db: Connection, page: Page) -> Slice:
    return await fetch(db, f"{_POOLS} WHERE true", [MAX_WAITING], page)


async def pool(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_POOLS} WHERE id = $2", MAX_WAITING, id_)


_POOLS = """
SELECT id, name, overflow, created_at,
       ARRAY(SELECT DISTINCT domain FROM pool_serves s WHERE s.pool_id = pools.id AND domain <> '' ORDER BY 1) AS domains,
       ARRAY(SELECT DISTINCT class FROM pool_serves s WHERE s.pool_id = pools.id ORDER BY 1) AS classes,
       ARRAY(SELECT s.id FROM sources s WHERE s.pool_id = pools.id ORDER BY s.id) AS sources,
       (SELECT count(*) FROM (SELECT FROM queue q WHERE q.waits_for = pools.id AND q.worker IS NULL LIMIT $1) w) AS waiting
FROM pools"""


# ---- 3. sources ------------------------------------------------------------------------------------------------------

COLUMNS = ("pool_id", "ipv4", "ipv6", "local_ipv4", "local_ipv6", "ehlo_name", "paused_at")
"""That the operator sets."""


async def add(db: Connection, values: dict[str, Any]) -> UUID:
    """Its warm-up is the caller's to begin (`store.warmups.add`). Raises NotFound (the pool), Conflict (an address is there)."""
    id_ = uuid7()
    try:
        await db.execute(
            "INSERT INTO sources (id, pool_id, ipv4, ipv6, local_ipv4, local_ipv6, ehlo_name) "
            "VALUES ($1, $2, $3::text::inet, $4::text::inet, $5::text::inet, $6::text::inet, $7)",
            id_,
            *(values.get(name) for name in COLUMNS[:-1]),
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("Pool not found") from None
    except asyncpg.UniqueViolationError:
        raise Conflict("There is a source with this address already.") from None
    return id_


async def change(db: Connection, id_: UUID, values: dict[str, Any]) -> None:
    """Only the columns that `values` names. Raises NotFound, Conflict as `add`."""
    named = [name for name in COLUMNS if name in values]
    kinds = {"pool_id": "$%d::uuid", "ehlo_name": "$%d::text", "paused_at": "$%d::timestamptz"}
    sets = [f"{name} = {kinds.get(name, '$%d::text::inet') % (n + 2)}" for n, name in enumerate(named)]
    try:
        found = await db.fetchval(
            f"UPDATE sources SET {', '.join([*sets, 'id = id'])} WHERE id = $1 RETURNING id",
            id_,
            *(values[name] for name in named),
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("Pool not found") from None
    except asyncpg.UniqueViolationError:
        raise Conflict("There is a source with this address already.") from None
    if found is None:
        raise NotFound("Source not found")


async def remove(db: Connection, id_: UUID) -> None:
    """With its warm-up and its history; of the last one of a pool, mail that waits there is due at once. Raises NotFound."""
    pool_id = await db.fetchval("DELETE FROM sources WHERE id = $1 RETURNING pool_id", id_)
    if pool_id is None:
        raise NotFound("Source not found")
    if not await db.fetchval("SELECT count(*) FROM sources WHERE pool_id = $1", pool_id):
        await let_go(db, pool_id)


async def sources(db: Connection, page: Page, pool_id: UUID | None = None) -> Slice:
    return await fetch(db, f"{_SOURCES} WHERE ($1::uuid IS NULL OR s.pool_id = $1)", [pool_id], page, column="s.id")


async def source(db: Connection, id_: UUID) -> asyncpg.Record | None:
    return await db.fetchrow(f"{_SOURCES} WHERE s.id = $1", id_)


_SOURCES = f"""
SELECT s.id, s.pool_id, p.name AS pool, host(s.ipv4) AS ipv4, host(s.ipv6) AS ipv6, host(s.local_ipv4) AS local_ipv4,
       host(s.local_ipv6) AS local_ipv6, s.ehlo_name, s.paused_at, s.created_at, w.id AS warmup_id,
       (SELECT coalesce(jsonb_agg(to_jsonb(h) - 'source_id' ORDER BY h.host), '[]') FROM source_hosts h
        WHERE h.source_id = s.id AND h.seen_at > now() - interval '{HOST_SECONDS} seconds') AS hosts
FROM sources s JOIN pools p ON p.id = s.pool_id JOIN warmups w ON w.source_id = s.id"""


# ---- 4. hosts --------------------------------------------------------------------------------------------------------


async def seen(db: Connection, host: str, found: Sequence[tuple[UUID, bool, str | None]]) -> None:
    """What this host found when it bound each source: whether one of its addresses can be, and why others cannot."""
    await db.execute(
        "INSERT INTO source_hosts (source_id, host, usable, error) SELECT t.id, $1, t.usable, t.error "
        "FROM unnest($2::uuid[], $3::boolean[], $4::text[]) AS t (id, usable, error) "
        "WHERE EXISTS (SELECT FROM sources s WHERE s.id = t.id) "
        "ORDER BY t.id ON CONFLICT (source_id, host) DO UPDATE "
        "SET usable = EXCLUDED.usable, error = EXCLUDED.error, seen_at = now()",
        host,
        [id_ for id_, _, _ in found],
        [usable for _, usable, _ in found],
        [error for _, _, error in found],
    )
