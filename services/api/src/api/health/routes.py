"""Whether we are up, for balancers and people. No key needed."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from api.context import Ctx
from api.errors import ApiError
from chassis.ops import readiness

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not ready; `checks` says what does not answer."}})
async def readyz(ctx: Ctx) -> JSONResponse:
    """503 while the database or the blob store does not answer. Redis is a doorbell: without it mail is still taken."""
    found = await readiness({"database": lambda: ctx.store.lookup("SELECT 1"), "blobs": ctx.blobs.check})
    ready = all(state == "ok" for state in found.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", "checks": found}, 200 if ready else 503)


@router.get("/api/metrics", include_in_schema=False)
async def metrics(request: Request, ctx: Ctx) -> Response:
    """Of this process, for who has METRICS_AUTH_TOKEN; while none is set, or with another, this path does not exist."""
    token = ctx.settings.metrics_auth_token
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token is None or not hmac.compare_digest(given.encode(), token.get_secret_value().encode()):
        raise ApiError(404, "not_found", "The requested endpoint does not exist.")
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
