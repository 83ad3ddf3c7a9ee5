"""Search: messages by their words, newest first. In a function of the role `search` that takes the organization (DESIGN §4): under
a policy Postgres may use no full-text index, for the operator could tell of rows that are another's.

What the words look like: mime.words; why each begins with a mark of its time: docs/adr/0027.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from mailcore.kit.ids import lower_bound, uuid7_time
from mailcore.store.messages import Filter
from mailcore.store.pages import LAST_ID
from mailcore.store.session import Connection

PATIENCE = timedelta(seconds=2)
"""How long one page may look further back in time."""
_END = datetime(9999, 1, 1, tzinfo=UTC)
_BEGIN = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Found:
    ids: list[UUID]
    """Newest first."""
    next: UUID | None
    """What a next page is to be after; None: there is no more. With it the page may hold less than its limit, or nothing: then so
    far was looked in the time there was."""


async def messages(
    db: Connection, org_id: UUID, query: str, narrow: Filter, *, limit: int, after: UUID | None = None
) -> Found:
    """`query`: a tsquery in which `~` stands for the mark that each word begins with. Role app."""
    at, id_ = _END, LAST_ID
    if after is not None:
        id_ = after
        at = await db.fetchval("SELECT received_at FROM messages WHERE id = $1", after)
        at = at or uuid7_time(UUID(int=min(after.int, LAST_ID.int)))
    if narrow.before is not None and narrow.before <= at:
        at, id_ = narrow.before, UUID(int=0)
    rows = await db.fetch(
        "SELECT message_id, received_at FROM search_messages($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        org_id,
        query,
        None if narrow.mailbox_ids is None else list(narrow.mailbox_ids),
        narrow.since or _BEGIN,
        at,
        id_,
        None if narrow.seen is None else not narrow.seen,
        narrow.flagged,
        limit + 1,
        PATIENCE,
    )
    ids = [row["message_id"] for row in rows if row["message_id"] is not None]
    if len(ids) > limit:
        return Found(ids[:limit], ids[limit - 1])
    stopped = next((row["received_at"] for row in rows if row["message_id"] is None), None)
    return Found(ids, None if stopped is None else lower_bound(stopped))
