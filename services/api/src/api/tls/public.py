"""What the world asks without a key.

GET, HEAD /.well-known/mta-sts.txt       the MTA-STS policy of the domain behind the host `mta-sts.<domain>` (RFC 8461 §3.2)
GET /v1/tls/ask?domain=                  200 where the host is one of ours that needs a certificate, 404 where not: what
                                         Caddy's `on_demand_tls` asks before it gets one
POST /v1/tls/intake/{token}              a TLS report about a domain of ours (RFC 8460 §5.4)
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from api.context import Context, Ctx
from api.errors import ApiError, invalid, not_found
from mailcore.dns.mta_sts import PATH, PREFIX, StsPolicy
from mailcore.dns.names import normalize_domain
from mailcore.dsn import tls_report
from mailcore.dsn.tls_report import BrokenReport
from mailcore.flow import tls_reports
from mailcore.flow.tls_reports import INTAKE
from mailcore.kit.errors import Invalid
from mailcore.store import mta_sts

router = APIRouter(include_in_schema=False)

MEDIA_TYPES = (tls_report.JSON, tls_report.GZIP, "application/gzip", "application/json")
"""The last two are what some senders say."""


@router.api_route(PATH, methods=["GET", "HEAD"], response_model=None)
async def policy(request: Request, ctx: Ctx) -> Response:
    host = _host(request.headers.get("host", "").partition(":")[0])
    if host is None or not host.startswith(PREFIX):
        raise not_found("Policy")
    row = await mta_sts.published(ctx.store, host.removeprefix(PREFIX))
    if row is None:
        raise not_found("Policy")
    text = own_policy(ctx, row["mode"], row["max_age"], row["mx"]).text
    # RFC 8461 §3.3: the policy says itself how long it holds, and HTTP caches are not to be asked
    return PlainTextResponse(text, headers={"cache-control": "no-store"})


def own_policy(ctx: Context, mode: str, max_age: int, others: list[str]) -> StsPolicy:
    """What a domain of ours publishes: our mail host, and those that its owner has besides."""
    return StsPolicy(mode, tuple(dict.fromkeys((ctx.domains.published.mx_host.lower(), *others))), max_age)


@router.get("/v1/tls/ask", response_model=None)
async def ask(request: Request, ctx: Ctx) -> Response:
    host = _host(request.query_params.get("domain", ""))
    if host is None or not await _needs_certificate(ctx, host):
        raise not_found("Host")
    return JSONResponse({"object": "tls_host", "domain": host})


async def _needs_certificate(ctx: Context, host: str) -> bool:
    if host in own_hosts(ctx):
        return True
    labels = host.split(".")
    parents = [".".join(labels[n:]) for n in range(1, len(labels) - 1)]
    return bool(parents) and await mta_sts.is_our_host(ctx.store, host, parents)


def own_hosts(ctx: Context) -> frozenset[str]:
    """Of the installation itself."""
    settings = ctx.settings
    named = (urlsplit(settings.http.public_url).hostname, urlsplit(settings.tracking.url).hostname)
    hosts = (*named, ctx.domains.published.tracking_host, ctx.domains.published.mx_host)
    return frozenset(host for each in hosts if each and (host := _host(each)) is not None)


def _host(text: str) -> str | None:
    try:
        host = normalize_domain(text, underscore=True)  # tracking hosts may have one
    except Invalid:
        return None
    return host if "." in host else None


@router.post(INTAKE + "{token}", response_model=None)
async def intake(token: str, request: Request, ctx: Ctx) -> Response:
    """201 for a new report, 200 for one that came before: both are on disk."""
    found = tls_reports.read_intake(ctx.keyring.derive_all("tls-intake"), token)
    if found is None:
        raise not_found("Domain")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise ApiError(415, "validation_error", f"Send the report as {tls_report.GZIP} or {tls_report.JSON}.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > tls_report.MAX_PACKED:
            raise ApiError(413, "validation_error", f"A report has at most {tls_report.MAX_PACKED} octets.")
    try:
        report = await asyncio.to_thread(tls_report.read, bytes(body), media_type)
    except BrokenReport as error:
        raise invalid(f"{str(error).capitalize()}.") from None
    source = request.client.host if request.client else ""
    new = await tls_reports.receive(ctx.store, *found, report, door="https", source=source)
    return JSONResponse({"object": "tls_report", "report_id": report.report_id}, 200 if new is None else 201)
