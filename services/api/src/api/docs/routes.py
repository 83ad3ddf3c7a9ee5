"""GET /: what answers here. GET /docs: /openapi.json for people; one page, no script, nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from api.context import Ctx
from api.docs.page import STYLE, render

router = APIRouter(include_in_schema=False)

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/")
async def root(request: Request, ctx: Ctx) -> Response:
    """A browser is sent to the reference; a program is told where it is. Nothing here differs by who asks."""
    headers = {"vary": "accept", "cache-control": "public, max-age=300"}
    if "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/docs", 302, headers)
    base = ctx.settings.http.public_url.rstrip("/")
    told = {"name": request.app.title, "version": request.app.version}
    links = {"docs": f"{base}/docs", "openapi": f"{base}/openapi.json", "health": f"{base}/health"}
    return JSONResponse(told | links, headers=headers)


@router.get("/docs")
async def docs(request: Request, ctx: Ctx) -> Response:
    """Made at the first request and kept: what runs does not change."""
    state = request.app.state
    page: bytes | None = getattr(state, "docs_page", None)
    if page is None:
        page = state.docs_page = render(request.app.openapi(), ctx.settings.http.public_url).encode()
    tag = f'"{hashlib.sha256(page).hexdigest()[:32]}"'
    headers = {"content-security-policy": POLICY, "cache-control": "public, max-age=300", "etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(None, 304, headers)
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")
