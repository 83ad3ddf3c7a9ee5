"""GET /emails/metrics (resend.md §4.6), and MailIt's GET /metrics?period=24h|7d|30d of the same counts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.context import Ctx
from api.emails import schemas
from api.emails.reading import moment_of
from api.errors import invalid
from mailcore.kit.moment import place
from mailcore.store import counts
from mailcore.store.counts import Asked
from mailcore.store.sent import TooMuch

router = APIRouter(tags=["emails"])

Counts: TypeAlias = dict[str, int]
Cell: TypeAlias = tuple[datetime | None, UUID | None, UUID | None]
"""Period, domain, email."""

_PLAIN: Final = (
    *("received", "delivered", "complained", "suppressed", "bounced", "bounced_transient", "bounced_permanent"),
    *("bounced_undetermined", "opened", "clicked", "unsubscribed", "delivery_delayed", "failed", "sent"),
    *("unique_opened", "unique_clicked"),
)
_BOUNCED: Final = ("bounced_transient", "bounced_permanent", "bounced_undetermined")
_RATES: Final = {
    "delivery_rate": ("delivered", "sent"),
    "open_rate": ("unique_opened", "delivered"),
    "click_rate": ("unique_clicked", "delivered"),
    "bounce_rate": ("bounced", "sent"),
    "complaint_rate": ("complained", "delivered"),
    "unsubscribe_rate": ("unsubscribed", "delivered"),
}
METRICS: Final = (*_PLAIN, *_RATES)
DIMENSIONS: Final = ("period", "domain", "email", "broadcast")
GRANULARITIES: Final = {"hourly": "hour", "daily": "day", "weekly": "week", "monthly": "month"}
MAX_PERIODS = 10_000
MAX_ROWS = 10_000
MAX_IDS = 100
_QUARTER = timedelta(minutes=15)
_LENGTH: Final = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=28),
}


@router.get(
    "/emails/metrics",
    responses={200: {"model": schemas.Metrics}},
    response_model=None,
    openapi_extra=schemas.METRICS_QUERY,
)
async def metrics(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    wanted = _choice(request, "metrics", METRICS) or list(METRICS)
    dimensions = _choice(request, "dimensions", DIMENSIONS)
    granularity = request.query_params.get("granularity") or "daily"
    if granularity not in GRANULARITIES:
        raise invalid(f"Invalid `granularity`. One of {', '.join(GRANULARITIES)}.")
    domains, emails, broadcasts = (_ids(request, name) for name in ("domain_id", "email_id", "broadcast_id"))
    if ("email" in dimensions or emails) and ("broadcast" in dimensions or broadcasts):
        raise invalid("The `email` and `broadcast` dimensions and filters cannot be combined.")
    zone = _zone(request.query_params.get("timezone") or "UTC")
    start, end = _range(request, zone, GRANULARITIES[granularity])
    asked = Asked(
        start=start,
        end=_up(end),
        zone=zone.key,
        granularity=GRANULARITIES[granularity] if "period" in dimensions else None,
        by_domain="domain" in dimensions,
        by_email="email" in dimensions,
        domain_ids=domains,
        email_ids=emails,
    )
    # no email belongs to a broadcast until there are broadcasts: of one, or by one, there is nothing to count
    none = bool(broadcasts) or "broadcast" in dimensions
    async with ctx.store.search(who.org_id) as db:
        cells = {} if none else await _cells(db, asked)
        names = (
            {row["id"]: row["name"] for row in await db.fetch("SELECT id, name FROM domains")}
            if asked.by_domain
            else {}
        )
    if len(cells) > MAX_ROWS:
        raise invalid(f"That is more than {MAX_ROWS:,} rows. Use a shorter range, fewer dimensions or ids.")
    answer: dict[str, Any] = {
        "object": "metrics",
        "start_date": _iso(start),
        "end_date": _iso(end),
        "metrics": wanted,
        "dimensions": dimensions,
        "granularity": granularity,
        "totals": _values(_sum(cells.values()), wanted),
    }
    if dimensions:
        if dimensions == ["period"]:
            cells = {(at, None, None): cells.get((at, None, None), {}) for at in _periods(asked, zone)} | cells
        answer["data"] = [
            _labels(cell, dimensions, zone, names) | _values(found, wanted)
            for cell, found in sorted(cells.items(), key=lambda item: [str(part) for part in item[0]])
        ]
    return answer


@router.get("/metrics", responses={200: {"model": schemas.MailItMetrics}}, response_model=None)
async def overview(who: FullAccess, ctx: Ctx, period: str = "7d") -> dict[str, Any]:
    """MailIt's form: the last 24 hours by the hour, or the last 7 or 30 days by the day."""
    lengths = {
        "24h": ("hour", timedelta(hours=23)),
        "7d": ("day", timedelta(days=6)),
        "30d": ("day", timedelta(days=29)),
    }
    if period not in lengths:
        raise invalid(f"Invalid `period`. One of {', '.join(lengths)}.")
    unit, back = lengths[period]
    end = datetime.now(UTC)
    zone = ZoneInfo("UTC")
    asked = Asked(start=_floor(end - back, unit, zone), end=_up(end), zone="UTC", granularity=unit)
    async with ctx.store.search(who.org_id) as db:
        cells = await _cells(db, asked)
    counted = ["sent", "delivered", "bounced", "failed", "opened", "clicked", "complained"]
    return {
        "period": period,
        "from": _iso(asked.start),
        "to": _iso(end),
        "totals": _values(_sum(cells.values()), [*counted, "delivery_rate", "open_rate", "bounce_rate"]),
        "data": [
            {"date": _iso(at) if unit == "hour" else f"{at:%Y-%m-%d}"}
            | _values(cells.get((at, None, None), {}), counted)
            for at in _periods(asked, zone)
        ],
    }


# ---- what is asked ---------------------------------------------------------------------------------------------------


def _list(request: Request, name: str) -> list[str]:
    """Comma-separated, repeated, or both; each once."""
    values = [value.strip() for text in request.query_params.getlist(name) for value in text.split(",")]
    return list(dict.fromkeys(value for value in values if value))


def _choice(request: Request, name: str, known: tuple[str, ...]) -> list[str]:
    values = _list(request, name)
    for value in values:
        if value not in known:
            raise invalid(f"Invalid `{name}`. Each must be one of {', '.join(known)}.")
    return values


def _ids(request: Request, name: str) -> list[UUID] | None:
    values = _list(request, name)
    if len(values) > MAX_IDS:
        raise invalid(f"The `{name}` parameter may hold at most {MAX_IDS} ids.")
    try:
        return [UUID(value) for value in values] or None
    except ValueError:
        raise invalid(f"The `{name}` must be a valid UUID.", "invalid_parameter") from None


def _zone(name: str) -> ZoneInfo:
    zone = place(name)
    if zone is None:
        raise invalid("Invalid `timezone`. Use an IANA name such as `America/New_York`.")
    return zone


def _range(request: Request, zone: ZoneInfo, unit: str) -> tuple[datetime, datetime]:
    """`(start, end)` in UTC; the start at a quarter of an hour."""
    query = request.query_params
    now = datetime.now(UTC)
    end = min(moment_of(query.get("end_date"), "end_date", zone, end=True) or now, now)
    start = moment_of(query.get("start_date"), "start_date", zone)
    if start is None:
        try:
            start = _floor(end - timedelta(days=6), "hour" if unit == "hour" else "day", zone)
        except OverflowError:
            raise invalid("Invalid `end_date`.") from None
    start = _floor(start, "quarter", zone)
    whole_day = len(query.get("end_date", "")) == 10
    if start > end or (whole_day and start == end):
        raise invalid("Invalid `start_date`. It must be on or before `end_date`.")
    if (end - start) / _LENGTH[unit] > MAX_PERIODS:
        raise invalid(
            f"The range holds more than {MAX_PERIODS:,} periods. Use a shorter one, or a coarser `granularity`."
        )
    return start, end


# ---- periods ---------------------------------------------------------------------------------------------------------


def _floor(at: datetime, unit: str, zone: ZoneInfo) -> datetime:
    """The beginning of the period that holds it, as Postgres' date_trunc with a zone gives it; in UTC."""
    local = at.astimezone(zone)
    if unit in ("hour", "quarter"):
        past = timedelta(minutes=local.minute % (60 if unit == "hour" else 15), seconds=local.second)
        return (at - past).replace(microsecond=0).astimezone(UTC)
    day = local.date()
    if unit == "week":
        day -= timedelta(days=day.weekday())
    elif unit == "month":
        day = day.replace(day=1)
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def _up(at: datetime) -> datetime:
    """The end of its quarter of an hour: counts know no finer."""
    floor = _floor(at, "quarter", ZoneInfo("UTC"))
    return floor if floor == at else floor + _QUARTER


def _periods(asked: Asked, zone: ZoneInfo) -> Iterator[datetime]:
    unit = asked.granularity or "day"
    at = _floor(asked.start, unit, zone)
    while at < asked.end:
        yield at
        # a day may have 25 hours, a month 31 days: a step that lands within the next one, and back to its beginning
        over = {"hour": timedelta(hours=1), "day": timedelta(hours=30), "week": timedelta(days=8)}
        at = _floor(at + over.get(unit, timedelta(days=32)), unit, zone)


# ---- what is answered ------------------------------------------------------------------------------------------------


async def _cells(db: asyncpg.Connection, asked: Asked) -> dict[Cell, Counts]:
    try:
        rows = await counts.read(db, asked)
    except TooMuch:
        raise invalid(
            "These metrics look at more emails than one request may. Use a shorter range, or name emails by `email_id`."
        ) from None
    cells: dict[Cell, Counts] = {}
    for row in rows:
        period = None if row["period"] is None else row["period"].astimezone(UTC)
        cells.setdefault((period, row["domain_id"], row["email_id"]), {})[row["kind"]] = row["n"]
    return cells


def _sum(cells: Any) -> Counts:
    total: Counts = {}
    for found in cells:
        for kind, n in found.items():
            total[kind] = total.get(kind, 0) + n
    return total


def _values(found: Counts, wanted: list[str]) -> dict[str, int | float]:
    found = found | {"bounced": sum(found.get(kind, 0) for kind in _BOUNCED)}
    values: dict[str, int | float] = {}
    for name in wanted:
        if name in _RATES:
            part, whole = (found.get(each, 0) for each in _RATES[name])
            values[name] = round(100 * part / whole, 2) if whole else 0
        else:
            values[name] = found.get(name, 0)
    return values


def _labels(cell: Cell, dimensions: list[str], zone: ZoneInfo, names: dict[UUID, str]) -> dict[str, Any]:
    period, domain, email = cell
    labels: dict[str, Any] = {}
    if period is not None:
        labels["period"] = period.astimezone(zone).isoformat()
    if "domain" in dimensions and domain is not None and domain != counts.NO_DOMAIN:
        labels["domain_id"] = str(domain)
        if domain in names:
            labels["domain_name"] = names[domain]
    if email is not None:
        labels["email_id"] = str(email)
    return labels


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
