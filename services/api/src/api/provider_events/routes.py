"""POST /v1/provider-events/{way_id}: where a provider posts what became of mail it took. The signature is the key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.context import Ctx
from api.errors import ApiError
from api.pages import path_id
from mailcore.kit.errors import NotFound
from mailcore.kit.log import logger
from mailcore.providers.base import Forged, Post

log = logger(__name__)

router = APIRouter(prefix="/v1/provider-events", include_in_schema=False)

MAX_BODY = 2_000_000
"""Octets; the largest batches of providers stay below 1 MB."""


@router.post("/{way_id}", response_model=None)
async def take(way_id: str, request: Request, ctx: Ctx) -> dict[str, Any]:
    """After the commit. 401: not signed by the provider of such a way. 503: post it again later."""
    id_ = path_id(way_id, "way_id")
    body = await request.body()
    if len(body) > MAX_BODY:
        raise ApiError(413, "validation_error", f"The request body is larger than {MAX_BODY // 1_000_000} MB.")
    try:
        taken = await ctx.reports.take(id_, Post(dict(request.headers), body))
    except (NotFound, Forged) as error:
        # who cannot sign does not learn which ways there are; who sets one up reads the log
        log.warning("a provider's events were refused", way_id=way_id, reason=error.public)
        raise ApiError(
            401,
            "invalid_signature",
            "This is not signed as the provider of this way signs. Check the way's signing secret.",
        ) from None
    return {"object": "provider_events", "taken": taken.events}
