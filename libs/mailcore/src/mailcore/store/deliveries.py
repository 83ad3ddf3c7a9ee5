"""What is waiting to leave: leased, marked, settled, given back. With `store.leases` and `store.expiry` the writer of `queue` and
`deliveries`; which lanes have due rows says `store.due`.

1. `claim`          lease rows of some lanes, each lane its quantum; attempt and next due time are written before any network
2. `mark_dot_sent`  the final dot may leave now; without waiting for the disk
3. `settle`         what became of leased rows, only where the lease is still the one that was claimed
4. `release`        give back rows that were never begun

What is done to many rows (`claim`, `settle`, `release`) is done in `store.worker(by_index=True)`. Statements for rows that are
leased take them by key (`in_order`): the leave to send and the giving back of one mail may meet, and neither waits in a circle.

A row whose attempt ended with its worker's death is a suspect (`crashes` > 0): `claim` leaves it to `claim_suspect`, which leases
one alone, so that a mail that kills whoever touches it is found out and takes nothing else with it. Suspects take turns: the next
is leased when the final dot of the one before may leave. So at a death the suspect without `dot_sent` is the one to blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple, TypeVar
from uuid import UUID

import asyncpg

from mailcore.store.plans import by_index
from mailcore.store.session import Connection, Store

JITTER = 0.1
"""The share by which a back-off is spread to both sides: what failed together does not return together."""

HELD = "q.worker IS NOT DISTINCT FROM t.worker AND q.attempt = t.attempt AND q.leased_at = t.leased_at"
"""The fence: the lease of queue row `q` is still the one that `t` tells of. Not `=` for the worker: where the planner takes rows
that are leased for few, it would look for each among all that the worker holds, and not by its key."""

Key = tuple[UUID, int]
"""A delivery: the email's id and the recipient's number."""


class Leased(NamedTuple):
    email_id: UUID
    n: int
    attempt: int
    """1 for the first."""
    worker: int
    org_id: UUID
    lane_id: int
    recipient: str
    possible_duplicate: bool
    """An earlier attempt may have delivered."""
    leased_at: datetime
    """With worker and attempt the fence: a released row gets the same attempt again, and perhaps from the same worker."""
    suppressed: str | None = None
    """The recipient is on its organization's suppression list by now: where that came from. Such a row is not attempted."""
    success: bool = False
    """Its sender wants to be told when it is delivered; known when its content is."""
    relayed: bool = False
    """Received mail on its way to another server of its own organization; known when its content is."""

    @property
    def key(self) -> Key:
        return (self.email_id, self.n)


class Settlement(NamedTuple):
    """What one attempt came to. `state` is the delivery's new state; `queued` means it is tried again."""

    email_id: UUID
    n: int
    attempt: int
    worker: int
    """Whose lease it was when it was claimed: a worker declared dead meanwhile has another id."""
    leased_at: datetime
    state: str
    last_event: str | None
    """None leaves it."""
    outcome: str
    site: str | None
    mx_host: str | None = None
    mx_ip: str | None = None
    source_ip: str | None = None
    tls: str | None = None
    code: int | None = None
    enhanced_code: str | None = None
    reply: str | None = None
    rule: str | None = None
    conversation: str | None = None
    """JSON: [[at, "said" or "heard", line]]. As text, for nested lists would be read as one array of more dimensions."""
    unsure: bool = False
    """The final dot left and no reply was read: from now on a retry may be a second copy."""
    retry_after: float | None = None
    """Seconds until the next attempt, where that is not for the schedule to say."""
    tls_policy: str | None = None
    """What ruled the connection's TLS."""
    category: str | None = None
    category_rule: str | None = None
    """Of a refusal: what it is about, and the rule that says so (mailcore.dsn.classify)."""


_Row = TypeVar("_Row", Leased, Settlement)


def in_order(rows: Iterable[_Row]) -> list[_Row]:
    """By key. With `by_index` a statement locks its rows in the order in which they are given to it."""
    return sorted(rows, key=attrgetter("email_id", "n"))


class Settled(NamedTuple):
    email_id: UUID
    n: int
    org_id: UUID
    recipient: str
    possible_duplicate: bool
    """This attempt, or one before it, may have been a second copy."""
    first_delay: bool
    """Deferred, and its last event was not a delay yet."""
    scheduled: bool
    """Until this attempt it was scheduled mail: nobody has been told that it is sent."""


# ---- 1. claim --------------------------------------------------------------------------------------------------------


async def claim(
    db: Connection,
    lanes: Sequence[int],
    worker: int,
    *,
    limit: int,
    quantum: int | Sequence[int],
    schedule: Sequence[float],
) -> list[Leased]:
    """Leases up to `limit` due rows, at most `quantum` a lane (or of each its own), lanes in the order given.

    `schedule`: seconds after attempt 1, 2, … until the next; the row's due time is set to it now, so that a worker that vanishes
    leaves a row with a future. A lane that returns fewer rows than `quantum` has no more that are due and free.
    """
    quanta = [quantum] * len(lanes) if isinstance(quantum, int) else list(quantum)
    rows = await db.fetch(_CLAIM, worker, list(schedule), JITTER, list(lanes), quanta, limit)
    return [_leased(row, worker) for row in rows]


_LEASE = """
leased AS (
  UPDATE queue q
  SET worker = $1, leased_at = clock_timestamp(), attempt = q.attempt + 1, dot_sent = false, waits_for = NULL, turn = NULL,
      due_at = now() + make_interval(secs => ($2::float8[])[least(q.attempt + 1, cardinality($2::float8[]))]
                                             * (1 - $3::float8 + random() * 2 * $3::float8))
  FROM picked
  WHERE q.ctid = picked.ctid
  RETURNING q.email_id, q.n, q.attempt, q.org_id, q.lane_id, q.possible_duplicate, q.leased_at, q.recipient
)
SELECT leased.email_id, leased.n, leased.attempt, leased.org_id, leased.lane_id, known.recipient, leased.possible_duplicate,
       leased.leased_at,
       (SELECT CASE WHEN NOT lookup_relay(leased.lane_id) THEN s.origin END FROM suppressions s
        WHERE s.org_id = leased.org_id AND s.email = lower(known.recipient COLLATE "C"))
FROM leased CROSS JOIN LATERAL (
  SELECT coalesce(leased.recipient, (SELECT d.recipient FROM deliveries d
                                     WHERE d.email_id = leased.email_id AND d.n = leased.n)) AS recipient) known
"""
_CLAIM = f"""
WITH picked AS MATERIALIZED (
  SELECT row.ctid
  FROM unnest($4::bigint[], $5::integer[]) AS lane (id, quantum)
  CROSS JOIN LATERAL (
    SELECT q.ctid FROM queue q
    WHERE q.lane_id = lane.id AND q.worker IS NULL AND q.crashes = 0 AND q.due_at <= now()
    ORDER BY q.lane_id, q.due_at LIMIT lane.quantum FOR UPDATE SKIP LOCKED
  ) row
  LIMIT $6
), {_LEASE}
"""


async def claim_suspect(db: Connection, lane_id: int, worker: int, *, schedule: Sequence[float]) -> Leased | None:
    """Leases one suspect of that lane."""
    await by_index(db)
    row = await db.fetchrow(_CLAIM_SUSPECT, worker, list(schedule), JITTER, lane_id)
    return _leased(row, worker) if row else None


def _leased(row: asyncpg.Record, worker: int) -> Leased:
    return Leased(row[0], row[1], row[2], worker, row[3], row[4], row[5], row[6], row[7], row[8])


_CLAIM_SUSPECT = f"""
WITH picked AS MATERIALIZED (
  SELECT q.ctid FROM queue q
  WHERE q.lane_id = $4 AND q.crashes > 0 AND q.worker IS NULL AND q.due_at <= now()
  ORDER BY q.due_at LIMIT 1 FOR UPDATE SKIP LOCKED
), {_LEASE}
"""


# ---- 2. dot_sent -----------------------------------------------------------------------------------------------------


async def mark_dot_sent(store: Store, rows: Sequence[Leased]) -> set[Key]:
    """The ones that are still leased as they were claimed: only their final dot may leave.

    Many wait for each of these: it is one round trip. A server that crashes may forget the mark, which is why a lease older than
    the server's start counts as marked (`leases.take_back`). Raises Unavailable.
    """
    if await store.worker_script(_mark(rows)) == len(rows):
        return {row.key for row in rows}
    async with store.worker(durable=False, by_index=True) as db:  # which ones were taken from us
        return {(row[0], row[1]) for row in await db.fetch(f"{_mark(rows)} RETURNING q.email_id, q.n")}


def _mark(rows: Sequence[Leased]) -> str:
    columns = zip(
        *((r.email_id, r.n, r.attempt, r.worker, r.leased_at.isoformat()) for r in in_order(rows)), strict=True
    )
    email_id, n, attempt, worker, leased_at = (",".join(map(str, column)) for column in columns)
    return f"""
UPDATE queue q SET dot_sent = true
FROM unnest('{{{email_id}}}'::uuid[], '{{{n}}}'::smallint[], '{{{attempt}}}'::smallint[], '{{{worker}}}'::bigint[],
            '{{{leased_at}}}'::timestamptz[]) AS t (email_id, n, attempt, worker, leased_at)
WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD}"""


# ---- 3. settle -------------------------------------------------------------------------------------------------------


async def settle(db: Connection, settlements: Sequence[Settlement]) -> list[Settled]:
    """Stores what became of them; returns those whose lease was still held. The others were taken back meanwhile."""
    rows = await db.fetch(_SETTLE, *zip(*in_order(settlements), strict=True)) if settlements else []
    return [Settled(*row) for row in rows]


# its parameters are the fields of Settlement, in their order
# possible_duplicate: of the attempt, that an earlier one may have delivered; of row and delivery, also that this one may have
_SETTLE = f"""
WITH t AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
      $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::smallint[], $15::text[], $16::text[],
      $17::text[], $18::text[], $19::boolean[], $20::float8[], $21::text[], $22::text[], $23::text[])
    AS t (email_id, n, attempt, worker, leased_at, state, last_event, outcome, site, mx_host, mx_ip, source_ip, tls, code,
          enhanced_code, reply, rule, conversation, unsure, retry_after, tls_policy, category, category_rule)
), gone AS (
  DELETE FROM queue q USING t
  WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD} AND t.state <> 'queued'
  RETURNING q.org_id, q.possible_duplicate, t.*
), kept AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, possible_duplicate = q.possible_duplicate OR t.unsure,
                     due_at = CASE WHEN t.retry_after IS NULL THEN q.due_at ELSE now() + make_interval(secs => t.retry_after) END
  FROM t
  WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD} AND t.state = 'queued'
  RETURNING q.org_id, q.possible_duplicate, t.*
), mine AS (
  SELECT * FROM gone UNION ALL SELECT * FROM kept
), known AS MATERIALIZED (
  SELECT mine.*, d.recipient, d.last_event AS event_before, d.possible_duplicate AS duplicate_before
  FROM mine JOIN deliveries d ON d.email_id = mine.email_id AND d.n = mine.n
), moved AS (
  UPDATE deliveries d
  SET state = known.state,
      -- who reads fast is known before the reply to the final dot is
      last_event = CASE WHEN d.last_event IN ('opened', 'clicked') AND known.last_event IN ('delivered', 'delivery_delayed')
                        THEN d.last_event
                        WHEN d.last_event = 'scheduled' AND known.state = 'relayed' THEN 'sent'
                        ELSE coalesce(known.last_event, d.last_event) END,
      last_event_at = CASE WHEN known.last_event IS NULL THEN d.last_event_at ELSE now() END,
      possible_duplicate = d.possible_duplicate OR known.possible_duplicate OR known.unsure
  FROM known
  WHERE d.email_id = known.email_id AND d.n = known.n
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, mx_host, mx_ip, source_ip, tls, code, enhanced_code,
                        reply, rule, category, category_rule, possible_duplicate, conversation, tls_policy)
  SELECT email_id, n, attempt, org_id, now(), outcome, site, mx_host, mx_ip, source_ip, tls, code, enhanced_code, reply, rule,
         category, category_rule, duplicate_before, conversation::jsonb, tls_policy
  FROM known
)
SELECT email_id, n, org_id, recipient, duplicate_before, state = 'queued' AND event_before <> 'delivery_delayed',
       event_before = 'scheduled'
FROM known
"""


async def complained(db: Connection, email_id: UUID, n: int) -> tuple[UUID, str] | None:
    """Marks that copy as complained about. Its organization and recipient; None: not known, or marked already."""
    await by_index(db)
    row = await db.fetchrow(
        "UPDATE deliveries SET last_event = 'complained', last_event_at = now() "
        "WHERE email_id = $1 AND n = $2 AND last_event <> 'complained' RETURNING org_id, recipient",
        email_id,
        n,
    )
    return None if row is None else (row["org_id"], row["recipient"])


# ---- 4. release ------------------------------------------------------------------------------------------------------


async def release(db: Connection, rows: Sequence[Leased]) -> int:
    """Gives back leased rows that were not begun, due again at once and with the attempt not counted. Returns how many."""
    rows = in_order(rows)
    released: int = await db.fetchval(
        _RELEASE,
        [row.email_id for row in rows],
        [row.n for row in rows],
        [row.attempt for row in rows],
        [row.worker for row in rows],
        [row.leased_at for row in rows],
    )
    return released


_RELEASE = f"""
WITH released AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, attempt = q.attempt - 1, due_at = now()
  FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::timestamptz[])
    AS t (email_id, n, attempt, worker, leased_at)
  WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD}
  RETURNING 1
)
SELECT count(*) FROM released
"""
