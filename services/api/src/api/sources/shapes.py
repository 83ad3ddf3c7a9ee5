"""What these routes show, and the checks they share."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from api.errors import invalid
from api.queue.shapes import bar_shape
from mailcore.dns.names import normalize_domain
from mailcore.flow.sources import WarmupChange
from mailcore.flow.warmup import BY_OPERATOR, explain
from mailcore.kit.errors import Invalid
from mailcore.kit.ids import uuid7_time
from mailcore.kit.settings import WarmUp
from mailcore.store.bars import Bar
from mailcore.store.sources import BROADCAST, TRANSACTIONAL
from mailcore.store.warmups import Day, Warmup

CLASSES = {"transactional": TRANSACTIONAL, "broadcast": BROADCAST}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {
        "description": "It clashes with what is there; the message says with what.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
}
UNKNOWN: dict[int | str, dict[str, Any]] = {
    404: {
        "description": "No such pool.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
}


def address(text: str | None, field: str) -> str | None:
    """An address of the family that the field's name ends with, in its short form. Raises ApiError 422."""
    if text is None:
        return None
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise invalid(f"Invalid `{field}` field. It must be an IP address.") from None
    if str(ip.version) != field[-1]:
        raise invalid(f"Invalid `{field}` field. It must be an IPv{field[-1]} address.")
    if ip.is_multicast or ip.is_unspecified or getattr(ip, "scope_id", None):
        raise invalid(f"Invalid `{field}` field. No mail leaves from {ip}.")
    return str(ip)


def name(text: str, field: str) -> str:
    """A domain name in its normal form. Raises ApiError 422."""
    try:
        return normalize_domain(text.strip(" "))
    except Invalid as error:
        raise invalid(f"Invalid `{field}` field. {error.public}") from None


def change_of(asked: Any) -> WarmupChange:
    return WarmupChange(schedule=asked.schedule, step=asked.step, warm=asked.warm, paused=asked.paused)


def pool(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "mail": [mail for mail, class_ in CLASSES.items() if class_ in row["classes"]],
        "domains": list(row["domains"]),
        "overflow": None if row["overflow"] is None else str(row["overflow"]),
        "sources": [str(id_) for id_ in row["sources"]],
        "waiting": row["waiting"],
        "created_at": row["created_at"].isoformat(),
    }


def source(
    row: Any, warmup: Warmup, today: Day | None, now: datetime, limits: WarmUp, barred: Sequence[Bar]
) -> dict[str, Any]:
    shown = {
        "id": str(row["id"]),
        "pool_id": str(row["pool_id"]),
        **{key: row[key] for key in ("pool", "ipv4", "ipv6", "local_ipv4", "local_ipv6", "ehlo_name")},
        **warming(warmup, today, now, limits),
        "hosts": row["hosts"],
        "bars": [bar_shape(bar) for bar in barred if bar.source_id == row["id"]],
        "created_at": row["created_at"].isoformat(),
    }
    if row["hosts"] and not any(seen["usable"] for seen in row["hosts"]):
        shown["next_step"] = f"No host that sends can use it ({row['hosts'][0]['error']}). {shown['next_step']}"
    if row["paused_at"] is not None:
        since = row["paused_at"].isoformat()
        shown |= {
            "state": "paused",
            "paused": {"by": "operator", "since": since, "until": None, "why": BY_OPERATOR},
            "next_step": f"Paused by the operator. Resumed, it goes on as it was: {shown['next_step']}",
        }
    return shown


def warming(warmup: Warmup, today: Day | None, now: datetime, limits: WarmUp) -> dict[str, Any]:
    paused = None
    if warmup.state == "paused":
        by = "operator" if warmup.why.startswith(BY_OPERATOR) else "warm-up"
        paused = {"by": by, "since": _iso(warmup.paused_at), "until": _iso(warmup.paused_until), "why": warmup.why}
    return {
        "state": warmup.state,
        "step": warmup.step + 1,
        "steps": len(warmup.schedule),
        "schedule": list(warmup.schedule),
        "cap": None if warmup.state == "warm" else today.cap if today else warmup.schedule[warmup.step],
        "used": today.attempts if today else 0,
        "paused": paused,
        "why": warmup.why,
        "next_step": explain(warmup, today, now, limits),
        "today": None if today is None else day(today),
    }


def day(of: Day) -> dict[str, Any]:
    return {
        "day": of.day.isoformat(),
        "cap": of.cap,
        "leased": of.leased,
        "used": of.attempts,
        **{
            key: getattr(of, key) for key in ("delivered", "deferred", "blocked", "bounced", "complaints", "last_words")
        },
    }


def past(days: Sequence[Day], decisions: Sequence[Any]) -> dict[str, Any]:
    return {
        "days": [day(each) for each in days],
        "decisions": [
            {
                "at": uuid7_time(each["id"]).isoformat(),
                "what": each["what"],
                "step": each["step"] + 1,
                "why": each["why"],
            }
            for each in decisions
        ],
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
