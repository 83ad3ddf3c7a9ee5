"""POST /emails, POST /emails/batch."""

from __future__ import annotations

import asyncio
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.auth import authenticate
from api.body import OFF_LOOP_BYTES, read_json
from api.context import Context, context
from api.emails import schemas
from api.emails.batch import Batch, parse_batch
from api.emails.once import once
from api.emails.parse import parse
from api.emails.remote import Fetching
from api.errors import ApiError, invalid
from mailcore.kit.errors import Refused

router = APIRouter(tags=["emails"])

DOOR = "api"


@router.post("/emails", response_model=None, responses={200: {"model": schemas.EmailId}}, openapi_extra=schemas.SEND)
async def send(request: Request) -> Response:
    who = await authenticate(request)
    ctx = context(request)
    item = await read_json(request)
    parsed = parse(item) if await _is_small(request) else await asyncio.to_thread(parse, item)
    mark = once(request, "POST /emails", [parsed], lambda ids: _id_body(ids[0]))
    if parsed.parts:
        if mark is not None and (stored := await ctx.submits.stored(who.org_id, mark)) is not None:
            return _json(stored, ctx, who.org_id)
        await ctx.submits.sending_domain(who.org_id, parsed.email.domain, only=who.domain_ids)
        await Fetching(ctx.attachments).complete([parsed])
    done = await ctx.submits.submit(who.org_id, [parsed.email], door=DOOR, only=who.domain_ids, once=mark)
    ctx.keys.counts.add(who.org_id, who.key_id, len(parsed.email.recipients), done.names)
    return _json(done.response or _id_body(done.names[0]), ctx, who.org_id)


@router.post(
    "/emails/batch",
    response_model=None,
    responses={200: {"model": schemas.BatchSent}},
    openapi_extra=schemas.SEND_BATCH,
)
async def send_batch(request: Request) -> Response:
    who = await authenticate(request)
    ctx = context(request)
    mode = request.headers.get("x-batch-validation", "strict")
    if mode not in ("strict", "permissive"):
        raise invalid("The `x-batch-validation` header must be `strict` or `permissive`.")
    items = await read_json(request)
    permissive = mode == "permissive"
    small = await _is_small(request)
    batch = (
        parse_batch(items, permissive=permissive)
        if small
        else await asyncio.to_thread(parse_batch, items, permissive=permissive)
    )
    mark = once(request, "POST /emails/batch", batch.emails, batch.answer, [mode, batch.errors])
    # before there is much to be done in vain, and what becomes of it differs; otherwise the group's transaction looks for the key
    vain = batch.permissive or any(parsed.parts for parsed in batch.emails)
    if vain and mark is not None and (stored := await ctx.submits.stored(who.org_id, mark)) is not None:
        return _json(stored, ctx, who.org_id)
    if batch.permissive:
        await _drop_unsendable(ctx, who.org_id, who.domain_ids, batch)
    else:
        for parsed in batch.emails:
            if parsed.parts:  # who may not send has nothing fetched
                await ctx.submits.sending_domain(
                    who.org_id, parsed.email.domain, only=who.domain_ids, to=parsed.email.recipients
                )
        await Fetching(ctx.attachments).complete(batch.emails)
    if not batch.emails:
        return _json(batch.answer([]), ctx, who.org_id)
    done = await ctx.submits.submit(
        who.org_id, [parsed.email for parsed in batch.emails], door=DOOR, only=who.domain_ids, once=mark
    )
    recipients = sum([len(parsed.email.recipients) for parsed in batch.emails])
    ctx.keys.counts.add(who.org_id, who.key_id, recipients, done.names)
    return _json(done.response or batch.answer(done.names), ctx, who.org_id)


async def _drop_unsendable(ctx: Context, org_id: UUID, only: frozenset[UUID] | None, batch: Batch) -> None:
    """From the last to the first, so that places stay what they are."""
    fetching = Fetching(ctx.attachments)
    for which in range(len(batch.emails) - 1, -1, -1):
        parsed = batch.emails[which]
        try:
            await ctx.submits.sending_domain(org_id, parsed.email.domain, only=only, to=parsed.email.recipients)
            await fetching.complete([parsed])
        except (ApiError, Refused) as error:
            batch.drop(which, error)


async def _is_small(request: Request) -> bool:
    """Or decoding it would hold up everybody else."""
    return len(await request.body()) <= OFF_LOOP_BYTES


def _id_body(id_: str) -> bytes:
    return b'{"id":"%b"}' % id_.encode()


def _json(body: bytes, ctx: Context, org_id: UUID) -> Response:
    """With what was used of the quota, as this process knows it (resend.md §1)."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    standing = ctx.submits.quotas.known(org_id)
    if standing is not None:
        headers.append((b"x-resend-monthly-quota", b"%d" % standing.monthly))
        if standing.daily_limit is not None:
            headers.append((b"x-resend-daily-quota", b"%d" % standing.daily))
    return _Whole(body, headers)


class _Whole(Response):
    """Its headers are there already: Starlette's way to them costs as much as the rest of the answer."""

    def __init__(self, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = headers
