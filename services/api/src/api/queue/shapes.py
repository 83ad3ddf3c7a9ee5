"""What verbs and holds look like, and who orders them; for the routes of sites and of the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from api.auth import Principal
from api.pages import path_id
from mailcore.flow.operate import Told
from mailcore.store.bars import Bar
from mailcore.store.holds import Hold
from mailcore.store.queue_orders import Order

CLASSES = ("transactional", "broadcast")
"""By number, as the queue has it."""


def organization(text: str | None) -> UUID | None:
    """Raises ApiError 422."""
    return None if text is None else path_id(text, "organization_id")


def ordered_by(who: Principal) -> str:
    return f"user {who.user_id}" if who.key_id is None else f"api key {who.key_id}"


def hold_shape(hold: Hold) -> dict[str, Any]:
    return {
        "object": "hold",
        "id": str(hold.id),
        "site_id": None if hold.site_id is None else str(hold.site_id),
        "organization_id": None if hold.org_id is None else str(hold.org_id),
        "until": None if hold.until is None else hold.until.isoformat(),
        "origin": hold.origin,
        "reason": hold.reason,
        "created_at": hold.created_at.isoformat(),
    }


def bar_shape(bar: Bar) -> dict[str, Any]:
    site = bar.place if ":" in bar.place else None
    return {
        "source_id": str(bar.source_id),
        "site": site,
        "provider": None if site else bar.place,
        "until": bar.until.isoformat(),
        "reason": bar.reason,
        "created_at": bar.created_at.isoformat(),
    }


def order_shape(order: Order) -> dict[str, Any]:
    return {
        "object": "order",
        "id": str(order.id),
        "verb": order.verb,
        "query": _query_shape(order.query),
        "reason": order.reason,
        "ordered_by": order.ordered_by,
        "state": order.state,
        "touched": order.touched,
        "left": order.detail.get("left", 0),
        "error": order.error,
        "created_at": order.created_at.isoformat(),
        "done_at": None if order.done_at is None else order.done_at.isoformat(),
    }


def _query_shape(query: Mapping[str, Any]) -> dict[str, Any]:
    """As it was asked for, but that `older_than_seconds` is a time by now: `before`."""
    shown: dict[str, Any] = {}
    for name, value in query.items():
        if value is None or name == "requiretls":
            continue
        if name == "site_id":
            shown[name] = str(value)
        elif name == "org_id":
            shown["organization_id"] = value
        elif name == "class_":
            shown["class"] = CLASSES[value]
        else:
            shown[name] = value
    return shown


def told_shape(verb: str, told: Told) -> dict[str, Any]:
    touches = told.touches
    return {
        "object": "verb",
        "verb": verb,
        "dry_run": told.order is None,
        "touches": {
            "deliveries": touches.deliveries,
            "at_least": touches.at_least,
            "lanes": touches.lanes,
            "sites": touches.sites,
            "organizations": [str(id_) for id_ in touches.organizations],
            "sample": [
                {"email_id": str(row["email_id"]), "recipient": row["recipient"], "due_at": row["due_at"].isoformat()}
                for row in touches.sample
            ],
            "left": touches.left,
        },
        "holds": [hold_shape(hold) for hold in told.holds],
        "woken": told.woken,
        "bars": told.bars,
        "order": None if told.order is None else order_shape(told.order),
    }
