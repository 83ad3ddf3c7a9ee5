"""Mail that a site turned away with the connection (421): due again at once, its attempt not counted, and visible all the same.

One row of `attempts` a delivery tells of it, number 0: when and by what words it was first, and in its conversation every further
time, MAX_TIMES at most.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.store.deliveries import HELD, Settlement, in_order
from mailcore.store.session import Connection

RULE = "turned-away"
MAX_TIMES = 50
"""That are kept of one delivery."""


async def release(db: Connection, turned_away: Sequence[Settlement]) -> int:
    """Gives those rows back whose lease is still held; `conversation` of each tells of this time alone. Returns how many."""
    released: int = await db.fetchval(
        _RELEASE, *zip(*map(_columns, in_order(turned_away)), strict=True), RULE, 2 * MAX_TIMES
    )
    return released


def _columns(each: Settlement) -> tuple[object, ...]:
    fence = (each.email_id, each.n, each.attempt, each.worker, each.leased_at)
    where = (each.site, each.mx_host, each.mx_ip, each.source_ip, each.tls, each.tls_policy)
    return (*fence, *where, each.code, each.enhanced_code, each.reply, each.category, each.conversation)


_RELEASE = f"""
WITH t AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::smallint[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[],
      $8::text[], $9::text[], $10::text[], $11::text[], $12::smallint[], $13::text[], $14::text[], $15::text[], $16::text[])
    AS t (email_id, n, attempt, worker, leased_at, site, mx_host, mx_ip, source_ip, tls, tls_policy, code, enhanced_code,
          reply, category, conversation)
), released AS (
  UPDATE queue q SET worker = NULL, leased_at = NULL, dot_sent = false, attempt = q.attempt - 1, due_at = now()
  FROM t
  WHERE q.email_id = t.email_id AND q.n = t.n AND {HELD}
  RETURNING q.org_id, t.*
), noted AS (
  INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome, site, mx_host, mx_ip, source_ip, tls, tls_policy, code,
                        enhanced_code, reply, rule, category, category_rule, conversation)
  SELECT email_id, n, 0, org_id, now(), 'deferred', site, mx_host, mx_ip, source_ip, tls, tls_policy, code,
         enhanced_code, reply, $17::text, category, $17::text, conversation::jsonb
  FROM released
  ON CONFLICT (email_id, n, attempt) DO UPDATE SET conversation =
    CASE WHEN jsonb_array_length(coalesce(attempts.conversation, '[]')) < $18::integer
         THEN coalesce(attempts.conversation, '[]') || excluded.conversation ELSE attempts.conversation END
)
SELECT count(*) FROM released
"""
