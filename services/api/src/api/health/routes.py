"""Whether we are up, for balancers and people. No key needed."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.context import Ctx
from chassis.ops import readiness

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(ctx: Ctx) -> JSONResponse:
    """503 while the database or the blob store does not answer. Redis is a doorbell: without it mail is still taken."""
    found = await readiness({"database": lambda: ctx.store.lookup("SELECT 1"), "blobs": ctx.blobs.check})
    ready = all(state == "ok" for state in found.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", "checks": found}, 200 if ready else 503)
