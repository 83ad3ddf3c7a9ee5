"""A scheduled email is moved or cancelled, while it waits: never once a worker has it, never twice.

Between a claim and a change the row's lock decides (store.scheduled). After `cancel` returns, nothing is sent.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from mailcore.kit.errors import Conflict, Invalid, NotFound
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import OUTBOUND
from mailcore.store import scheduled
from mailcore.store.session import Connection, Store


async def reschedule(store: Store, ringer: Ringer, org_id: UUID, email_id: UUID, at: datetime, *, due: bool) -> None:
    """`due`: it is to leave now. Raises NotFound, Invalid (not scheduled), Conflict (just now being changed), Unavailable."""
    async with store.tenant(org_id) as db:
        await _hold(db, email_id, "rescheduled")
        sites = await scheduled.move(db, email_id, at)
    if due:
        for site in sites:
            ringer.ring(OUTBOUND, site)


async def cancel(store: Store, org_id: UUID, email_id: UUID) -> None:
    """Raises as `reschedule`."""
    async with store.tenant(org_id) as db:
        await _hold(db, email_id, "canceled")
        await scheduled.cancel(db, email_id)


async def _hold(db: Connection, email_id: UUID, verb: str) -> None:
    held = await scheduled.hold(db, email_id)
    if held is None:
        raise NotFound("Email not found")
    if held.last_event == "canceled":
        raise Invalid(f"Only scheduled emails can be {verb}. This one was canceled, and that is final.")
    if held.begun or not held.scheduled:
        raise Invalid(f"Only scheduled emails can be {verb}. The last event of this one is `{held.last_event}`.")
    if held.taken:
        raise Invalid(f"Only scheduled emails can be {verb}. This one is being sent already.")
    if held.free < held.scheduled:
        raise Conflict("Another request is already updating this resource.", name="resource_locked")
