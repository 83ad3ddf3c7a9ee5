"""What mails lead to, on any host and without a key: the image, the links, unsubscribing (RFC 8058).

    GET, HEAD /track/open/{token}     a GIF of one pixel
    GET, HEAD /track/click/{token}    302 to the link's own address; 404 on the host of another organization's domain
    GET /unsubscribe?token=           a page with a button; it changes nothing, for scanners follow every link
    POST /unsubscribe?token=          with the body List-Unsubscribe=One-Click: done

Image and links need no database to answer, but for a look every five minutes at whose a tracking host is; where it is away they
answer all the same. All that is answered here comes out of a signed token.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import escape
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.context import Context, Ctx
from api.errors import ApiError, not_found
from api.tls.public import own_hosts
from api.tracking.agents import reader
from api.tracking.page import ASK, DONE, POLICY
from mailcore.flow.track import Hit, unsubscribe
from mailcore.mime.tracking import (
    CLICK,
    OPEN,
    UNSUBSCRIBE,
    Subscription,
    Tracked,
    read_click,
    read_open,
    read_unsubscribe,
)

router = APIRouter(include_in_schema=False)

PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
"""One transparent pixel, GIF89a."""
MAX_AGENT = 500
MAX_FORM = 4096
"""Octets of the body of an unsubscribe."""
_SHOWN = ["GET", "HEAD"]
_HEADERS = {
    "cache-control": "no-store, no-cache, must-revalidate, private, max-age=0",
    "pragma": "no-cache",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex, nofollow",
    "x-content-type-options": "nosniff",
}
# RFC 8058 §3.2: the pair is sent as multipart/form-data or as application/x-www-form-urlencoded
_PART = re.compile(rb'\bname="?List-Unsubscribe"?[^\r\n]*\r?\n(?:[^\r\n]+\r?\n)*\r?\nOne-Click\r?\n', re.IGNORECASE)


@router.api_route(OPEN + "{token}", methods=_SHOWN, response_model=None)
async def open_(request: Request, token: str, ctx: Ctx) -> Response:
    tracked = read_open(ctx.tracks.keys, token)
    if tracked is not None:
        _note(request, ctx, tracked)
    # an image in any case: a broken one would show in the mail
    return Response(PIXEL, 404 if tracked is None else 200, _HEADERS, "image/gif")


@router.api_route(CLICK + "{token}", methods=_SHOWN, response_model=None)
async def click(request: Request, token: str, ctx: Ctx) -> Response:
    tracked = read_click(ctx.tracks.keys, token)
    if tracked is None or tracked.url is None or not await _leads_from_here(request, ctx, tracked):
        raise not_found("Link")
    _note(request, ctx, tracked)
    return Response(None, 302, {**_HEADERS, "location": tracked.url})


async def _leads_from_here(request: Request, ctx: Context, tracked: Tracked) -> bool:
    """A link is the sender's word: on the host of another organization's domain it would be taken for theirs."""
    host = (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").rstrip(".")
    if host in own_hosts(ctx) or "." not in host.strip("0123456789.") or ":" in host:
        return True  # ours; or an address, or the name that a proxy on this network has for us: nobody's domain
    return await ctx.tracks.leads_from(host, tracked.org_id)


def _note(request: Request, ctx: Context, tracked: Tracked) -> None:
    method = "HEAD" if "postroom.head" in request.scope else request.method  # edge asks for it as GET
    seen = reader(method, request.headers, image=tracked.url is None)
    ctx.tracks.note(
        Hit(
            tracked.org_id,
            tracked.email_id,
            tracked.url,
            datetime.now(UTC),
            request.client.host if request.client else "",
            request.headers.get("user-agent", "")[:MAX_AGENT],
            seen.proxy,
            seen.scanner,
            seen.read,
        )
    )


@router.api_route(UNSUBSCRIBE, methods=_SHOWN, response_model=None)
async def ask(request: Request, ctx: Ctx) -> Response:
    subscription = _subscription(request, ctx)
    return _page(ASK.format(recipient=escape(subscription.recipient)))


@router.post(UNSUBSCRIBE, response_model=None)
async def one_click(request: Request, ctx: Ctx) -> Response:
    """Twice is once. No cookie is asked for and none is set, and there is no redirect (RFC 8058 §3.1, §3.2)."""
    subscription = _subscription(request, ctx)
    if not await _is_one_click(request):
        raise ApiError(400, "validation_error", "Send the body `List-Unsubscribe=One-Click` to unsubscribe.")
    await unsubscribe(ctx.store, subscription)
    return _page(DONE.format(recipient=escape(subscription.recipient)))


def _subscription(request: Request, ctx: Context) -> Subscription:
    found = read_unsubscribe(ctx.tracks.keys, request.query_params.get("token", ""))
    if found is None:
        raise not_found("Link")
    return found


async def _is_one_click(request: Request) -> bool:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise ApiError(413, "validation_error", "The request body is too large.")
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return _PART.search(body) is not None
    values = parse_qs(body.decode("ascii", "replace"), max_num_fields=20) if body.count(b"&") < 20 else {}
    return "One-Click" in values.get("List-Unsubscribe", [])


def _page(html: str) -> Response:
    return Response(html, 200, {**_HEADERS, "content-security-policy": POLICY}, "text/html")
