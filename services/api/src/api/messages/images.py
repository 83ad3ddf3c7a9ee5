"""GET /v1/images/{org}/{message}: an image that a mail names elsewhere, through us: its sender learns neither who looks nor where.

The link is signed for that one URL, and only a message that was asked for with `images=proxy` has such links.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.context import Ctx
from api.links import links
from api.pages import path_id

router = APIRouter(include_in_schema=False)


@router.get("/v1/images/{org}/{message}", response_model=None)
async def image(request: Request, org: str, message: str, ctx: Ctx) -> Response:
    org_id, message_id = path_id(org), path_id(message)
    asked = request.query_params
    url = asked.get("url", "")
    links(ctx).check_image(org_id, message_id, url, asked.get("expires", ""), asked.get("signature", ""))
    found = await ctx.images.fetch(url)
    return Response(
        found.content,
        media_type=found.content_type,
        headers={
            "content-security-policy": "default-src 'none'; sandbox",
            "x-content-type-options": "nosniff",
            # it is shown in a frame that has no origin
            "cross-origin-resource-policy": "cross-origin",
            "cache-control": "private, max-age=86400",
            "referrer-policy": "no-referrer",
        },
    )
