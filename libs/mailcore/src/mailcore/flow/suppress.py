"""Suppressions: an organization's own list, and who puts himself on it by bouncing for good or complaining.

`add` and `remove` are doors with a transaction of their own; `add_in` is for a transaction that learns of a bounce (flow.settle).
Each new or removed row raises suppression.added or suppression.removed in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.events import timestamp
from mailcore.kit.errors import Unavailable
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import deliveries, events, suppressions
from mailcore.store.events import NewEvent
from mailcore.store.session import Connection, Store
from mailcore.store.suppressions import NewSuppression, Suppression


async def add(store: Store, ringer: Ringer, org_id: UUID, emails: Sequence[str]) -> list[UUID]:
    """By hand; the id of each, in order. `emails` are folded. One that is there already stays as it is. Raises Unavailable."""
    async with store.tenant(org_id) as db:
        queued = await add_in(db, [NewSuppression(org_id, email, "manual") for email in emails])
        ids = await suppressions.ids(db, emails)
    if queued:
        ringer.ring(WEBHOOKS)
    if not ids.keys() >= set(emails):  # it was there, and somebody removed it since
        raise Unavailable("Another request is changing these suppressions. Try again.")
    return [ids[email] for email in emails]


async def add_in(db: Connection, new: Sequence[NewSuppression]) -> int:
    """In the caller's transaction (role app or worker). Returns how many webhook deliveries were queued."""
    added = await suppressions.add(db, new)
    return await events.insert(db, [_event("suppression.added", each) for each in added])


async def remove(
    store: Store, ringer: Ringer, org_id: UUID, *, ids: Sequence[UUID] = (), emails: Sequence[str] = ()
) -> list[UUID]:
    """The ids of those that were on the list."""
    async with store.tenant(org_id) as db:
        gone = await suppressions.remove(db, ids, emails)
        queued = await events.insert(db, [_event("suppression.removed", each) for each in gone])
    if queued:
        ringer.ring(WEBHOOKS)
    return [each.id for each in gone]


async def complaint(store: Store, email_id: UUID, n: int) -> int:
    """Somebody marked that copy as spam (RFC 5965): email.complained, and nothing more goes to the address.

    A second report about the same copy changes nothing. Returns how many webhook deliveries were queued.
    """
    async with store.worker() as db:
        found = await deliveries.complained(db, email_id, n)
        if found is None:
            return 0
        org_id, recipient = found
        event = NewEvent(uuid7(), org_id, "email.complained", email_id, datetime.now(UTC), [recipient])
        queued = await events.insert(db, [event])
        new = NewSuppression(org_id, suppressions.folded(recipient), "complaint", email_id)
        return queued + await add_in(db, [new])


def _event(type_: str, row: Suppression) -> NewEvent:
    """The whole row travels with the event: a removed one is gone when it is posted."""
    detail: dict[str, Any] = {
        "id": str(row.id),
        "email": row.email,
        "origin": row.origin,
        "source_id": None if row.source_id is None else str(row.source_id),
        "created_at": timestamp(row.created_at),
    }
    return NewEvent(uuid7(), row.org_id, type_, row.id, datetime.now(UTC), None, detail)
