"""The operator's verbs over waiting mail and sites. Each can say first what it would touch, and leaves a row in `queue_orders`.

hold, resume            a site, an organization, an organization's mail to a site, or everything; at once
flush, bounce, purge,   waiting mail by query; ordered here, carried out by outbound in batches, and taken up again after a
reroute                 crash. Reroute sends it by one of the installation's ways out: so a site is drained to a provider

What is under way when a verb comes ends as it ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from mailcore.flow.settle import bounce
from mailcore.kit.errors import Invalid, NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.kit.metrics import DELIVERIES
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import ORDER, OUTBOUND
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import bars, events, holds, owed, queue_orders, site_list, ways
from mailcore.store.events import NewEvent
from mailcore.store.holds import Hold
from mailcore.store.owed import NewOwed
from mailcore.store.plans import by_index
from mailcore.store.queue_orders import BATCH, Ended, Order, Query, Touches
from mailcore.store.session import Connection, Store

log = logger(__name__)

BY_QUERY = ("flush", "bounce", "purge", "reroute")
QueryVerb = Literal["flush", "bounce", "purge", "reroute"]


@dataclass(frozen=True, slots=True)
class Told:
    """What a verb touches, or would touch; `order` is None for a dry run."""

    touches: Touches
    holds: list[Hold]
    """Placed or lifted, or those that would be lifted."""
    woken: int
    """Sites whose rest ended, or would."""
    order: Order | None
    bars: int = 0
    """Sources that may send there again, or could."""


class TooLong(Unavailable):
    """What was asked about the queue takes too long to find out."""


@asynccontextmanager
async def reading(store: Store) -> AsyncIterator[Connection]:
    """For what an operator asks about the whole queue: by index, and not for long. Raises TooLong."""
    try:
        async with store.worker() as db:
            await site_list.bounded(db)
            yield db
    except asyncpg.QueryCanceledError as error:
        raise TooLong(
            "The queue is too long to be looked through so. Name a site, a domain or an organization."
        ) from error


# ---- hold and resume -------------------------------------------------------------------------------------------------


async def hold(
    store: Store,
    site_id: int | None,
    org_id: UUID | None,
    *,
    seconds: float | None,
    reason: str,
    ordered_by: str,
    dry_run: bool,
) -> Told:
    """Nothing of that leaves, for `seconds` or until `resume`. Raises NotFound."""
    touches = await _survey_of(store, site_id, org_id, needed=dry_run)
    if dry_run:
        return Told(touches, [], 0, None)
    async with store.worker() as db:
        placed = await holds.place(db, site_id, org_id, origin="operator", reason=reason, seconds=seconds)
        order = await queue_orders.insert(
            *(db, uuid7(), "hold", _pair(site_id, org_id)),
            detail={"seconds": seconds},
            reason=reason,
            ordered_by=ordered_by,
            done=True,
            touched=touches.deliveries,
        )
    return Told(touches, [placed] if placed else [], 0, order)


async def resume(
    store: Store,
    ringer: Ringer,
    site_id: int | None,
    org_id: UUID | None,
    *,
    provider: Callable[[str], str | None] = lambda _: None,
    ordered_by: str,
    dry_run: bool,
) -> Told:
    """Lifts the hold on exactly that; of a site alone its rest ends, too, and what a rule does to it, and to sources there or at
    all sites of its `provider`. Raises NotFound."""
    touches = await _survey_of(store, site_id, org_id, needed=dry_run)
    sites = [site_id] if site_id is not None and org_id is None else []
    async with store.worker() as db:
        keys = [row.key for id_ in sites if (row := await site_list.get(db, id_))]
        places = [place for key in keys for place in (key, provider(key)) if place]
        if dry_run:
            found = [each for each in await holds.in_force(db) if (each.site_id, each.org_id) == (site_id, org_id)]
            barred = sum(bar.place in places for bar in await bars.in_force(db))
            return Told(touches, found, await site_list.resting(db, sites), None, barred)
        lifted = await holds.lift(db, site_id, org_id)
        unbarred = await bars.lift(db, places)
        woken = await site_list.wake(db, sites)
        order = await queue_orders.insert(
            *(db, uuid7(), "resume", _pair(site_id, org_id)),
            detail={"lifted": len(lifted), "woken": woken, "bars": unbarred},
            reason="",
            ordered_by=ordered_by,
            done=True,
            touched=touches.deliveries,
        )
    ringer.ring(OUTBOUND, "" if site_id is None else str(site_id))
    return Told(touches, lifted, woken, order, unbarred)


async def _survey_of(store: Store, site_id: int | None, org_id: UUID | None, *, needed: bool) -> Touches:
    """Raises NotFound. A verb that acts at once waits for no count: without it the queue is as long as it is."""
    async with store.worker() as db:
        await _known(db, site_id, org_id)
    try:
        async with reading(store) as db:
            return await queue_orders.survey(db, Query(site_id=site_id, org_id=org_id, scheduled=True))
    except TooLong:
        if needed:
            raise
        return Touches(0, True, 0, [], [], [])


async def _known(db: Connection, site_id: int | None, org_id: UUID | None) -> None:
    """Raises NotFound."""
    if site_id is not None and await site_list.get(db, site_id) is None:
        raise NotFound("Site not found")
    if org_id is not None and not await site_list.organization_exists(db, org_id):
        raise NotFound("Organization not found")


def _pair(site_id: int | None, org_id: UUID | None) -> dict[str, Any]:
    return {"site_id": site_id, "org_id": None if org_id is None else str(org_id)}


# ---- by query --------------------------------------------------------------------------------------------------------


async def order(
    store: Store,
    ringer: Ringer,
    verb: QueryVerb,
    query: Query,
    *,
    reason: str,
    ordered_by: str,
    dry_run: bool,
    way_id: UUID | None = None,
) -> Told:
    """Counts what the query means (up to a bound); unless `dry_run`, orders it and rings outbound.

    `way_id`: of reroute, a way of the installation; None: the way of the recipient's domain again. Raises NotFound, also of a site
    or an organization that the query names: else a number that was mistyped would look like an empty queue. Mail with
    REQUIRETLS is left where it is when the way is a provider's API: there it could only fail.
    """
    async with reading(store) as db:
        await _known(db, query.site_id, query.org_id)
        if way_id is not None:
            way = await ways.shown(db, None, way_id)
            if way is None:
                raise NotFound("Way not found")
            query = dataclasses.replace(query, requiretls=way["kind"] in ways.OWN_KINDS)
        touches = await queue_orders.survey(db, query)
    if dry_run:
        return Told(touches, [], 0, None)
    async with store.worker() as db:
        route = 0 if way_id is None else await queue_orders.lane_route(db, way_id)
        if route is None:
            raise NotFound("Way not found")
        made = await queue_orders.insert(
            *(db, uuid7(), verb, written(query)),
            detail={"way_id": None if way_id is None else str(way_id), "route": route} if verb == "reroute" else {},
            reason=reason,
            ordered_by=ordered_by,
            done=False,
        )
    await ringer.enqueue(ORDER, str(made.id))
    return Told(touches, [], 0, made)


def written(query: Query) -> dict[str, Any]:
    """As the order's row keeps it."""
    found = {
        name: value
        for name, value in dataclasses.asdict(query).items()
        if value is not None and value is not (name == "requiretls")  # what is not said
    }
    return {name: str(value) if isinstance(value, UUID | datetime) else value for name, value in found.items()}


def read(query: Mapping[str, Any]) -> Query:
    """Raises Invalid for what `written` never wrote."""
    try:
        return Query(
            **{
                **query,
                **{name: UUID(query[name]) for name in ("org_id", "email_id") if name in query},
                **({"before": datetime.fromisoformat(query["before"])} if "before" in query else {}),
            }
        )
    except (TypeError, ValueError) as error:
        raise Invalid(f"The order's query cannot be read: {error}.") from error


@dataclass(frozen=True, slots=True)
class Done:
    touched: int
    webhooks: int
    """Webhook deliveries queued: ring when not 0."""


async def carry_out(store: Store, order_id: UUID) -> Done:
    """An order that waits, to its end; safe twice, for what was touched is not found again. Raises Unavailable."""
    async with store.worker() as db:
        found = await queue_orders.get(db, order_id)
    if found is None or found.state != "waiting":
        return Done(0, 0)
    touched = webhooks = 0
    try:
        if found.verb not in BY_QUERY:
            raise Invalid(f"There is no order `{found.verb}` by query.")
        query = read(found.query)
        async with store.worker() as db:
            await by_index(db)
            lanes = await queue_orders.lanes(db, query)
        for lane in lanes:
            if not query.requiretls:
                await _leave(store, found, lane, query)
            while True:
                batch, queued = await _batch(store, found, lane, query)
                touched, webhooks = touched + batch, webhooks + queued
                if batch < BATCH:
                    break
    except Invalid as error:
        async with store.worker() as db:
            await queue_orders.finish(db, order_id, error.public)
        return Done(touched, webhooks)
    async with store.worker() as db:
        if found.verb == "flush":
            await site_list.wake(db, await site_list.sites_of(db, lanes))
        await queue_orders.finish(db, order_id)
    log.info("an order was carried out", order=str(order_id), verb=found.verb, deliveries=touched)
    return Done(touched, webhooks)


LEFT = (
    "An order of the operator to send it by a provider's API left it where it is: it was handed in with REQUIRETLS, and no "
    "provider promises that (RFC 8689)."
)


async def _leave(store: Store, order: Order, lane: int, query: Query) -> None:
    while True:
        async with store.worker() as db:
            await queue_orders.lock(db, order.id)
            await by_index(db)
            count = await queue_orders.leave(db, lane, query, order, LEFT)
            if count:
                await queue_orders.left(db, order.id, count)
        if count < BATCH:
            return


async def _batch(store: Store, order: Order, lane: int, query: Query) -> tuple[int, int]:
    """One transaction: rows, events, and how far the order is."""
    async with store.worker() as db:
        await queue_orders.lock(db, order.id)
        await by_index(db)
        queued = 0
        if order.verb == "flush":
            count = await queue_orders.flush(db, lane, query)
        elif order.verb == "reroute":
            count = await queue_orders.reroute(db, lane, query, int(order.detail["route"]))
        else:
            verb: Literal["bounce", "purge"] = "bounce" if order.verb == "bounce" else "purge"
            words = order.reason or "taken out of the queue by the operator"
            ended = await queue_orders.end(db, lane, query, verb=verb, words=words)
            count = len(ended)
            if verb == "bounce":
                queued = await _tell(db, ended, words)
                DELIVERIES.labels("bounced").inc(count)
        if count:
            await queue_orders.progress(db, order.id, count)
        return count, queued


async def _tell(db: Connection, ended: list[Ended], words: str) -> int:
    await owed.owe(db, [NewOwed(each.email_id, each.n, "failed") for each in ended])
    now = datetime.now(UTC)
    detail = bounce(Outcome(Result.BOUNCED, Reply(554, words, "5.7.0"), rule="operator"))
    return await events.insert(
        db,
        [
            NewEvent(uuid7(), each.org_id, "email.bounced", each.email_id, now, [each.recipient], detail)
            for each in ended
        ],
    )
