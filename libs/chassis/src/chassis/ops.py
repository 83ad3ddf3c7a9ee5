"""The operations app of a process: live, ready, metrics, drain. Bound to the ops port, not for the public."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], Awaitable[object]]
"""Returns when all is well; raises, or does not return within two seconds, when not."""
CHECK_SECONDS = 2.0


async def readiness(checks: Mapping[str, Check]) -> dict[str, str]:
    """Name → `ok` or what is wrong."""

    async def one(check: Check) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await check()
        except TimeoutError:
            return "no answer within 2 s"
        except Exception as error:
            return str(error) or type(error).__name__
        return "ok"

    return dict(zip(checks, await asyncio.gather(*(one(check) for check in checks.values())), strict=True))


def ops_app(checks: Mapping[str, Check], *, draining: Callable[[], bool], drain: Callable[[], None]) -> FastAPI:
    app = FastAPI(title="Postroom operations", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        found = await readiness(checks)
        ready = not draining() and all(state == "ok" for state in found.values())
        status = "ok" if ready else ("draining" if draining() else "unavailable")
        return JSONResponse({"status": status, "checks": found}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.post("/drain")
    async def start_drain() -> dict[str, str]:
        drain()
        return {"status": "draining"}

    return app
