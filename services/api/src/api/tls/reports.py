"""GET /v1/tls/reports[/{id}]: reports about our domains. For the operator: GET /v1/tls/sent, our own; GET /v1/tls/hosts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.context import Ctx
from api.errors import not_found
from api.operators import Operator
from api.pages import PARAMETERS, listed, page, path_id, plain_limit
from api.tls import schemas
from api.tls.public import own_hosts
from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.kit.ids import uuid7_time
from mailcore.store import mta_sts, tls_reports

router = APIRouter(prefix="/v1/tls", tags=["tls"])

_LIMIT = PARAMETERS["parameters"][0]


def _query(name: str, **schema: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string", **schema}}


@router.get(
    "/reports",
    response_model=None,
    responses={200: {"model": schemas.ReceivedList}},
    openapi_extra={"parameters": [*PARAMETERS["parameters"], _query("domain_id", format="uuid")]},
)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    domain = request.query_params.get("domain_id")
    async with ctx.store.tenant(who.org_id) as db:
        found = await tls_reports.page(db, asked, path_id(domain, "domain_id") if domain is not None else None)
    return listed(found, _summary)


@router.get("/reports/{id}", response_model=None, responses={200: {"model": schemas.Received}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await tls_reports.find(db, path_id(id))
    if row is None:
        raise not_found("TLS report")
    return {"object": "tls_report", **_summary(row), "report": row["report"]}


@router.get(
    "/sent",
    response_model=None,
    responses={200: {"model": schemas.SentList}},
    openapi_extra={"parameters": [_LIMIT, _query("domain")]},
)
async def sent(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """The latest reports that we owe others or have sent them, of all recipient domains or of one."""
    limit = plain_limit(request)
    asked = request.query_params.get("domain")
    async with ctx.store.worker() as db:
        rows = await tls_reports.sent(db, _name(asked) if asked is not None else None, limit)
    return {"object": "list", "data": [_sent(row) for row in rows]}


@router.get(
    "/hosts",
    response_model=None,
    responses={200: {"model": schemas.Hosts}},
    openapi_extra={"parameters": [_LIMIT, _query("after")]},
)
async def hosts(request: Request, who: Operator, ctx: Ctx) -> dict[str, Any]:
    """All hosts that need a certificate from this installation, for who makes them ahead of time (cert-manager)."""
    limit = plain_limit(request, default=100)
    after = request.query_params.get("after", "")[:300]
    async with ctx.store.worker() as db:
        found = await mta_sts.hosts(db, after, limit + 1)
    own = [host for host in sorted(own_hosts(ctx)) if host > after]
    all_ = sorted({*found, *own})
    return {"object": "list", "has_more": len(all_) > limit, "data": all_[:limit]}


def _name(text: str) -> str:
    try:
        return normalize_domain(text)
    except Invalid:
        return ""


def _summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "domain_id": str(row["domain_id"]),
        "domain": row["domain"],
        "door": row["door"],
        "source": row["source"],
        "organization": row["organization"],
        "report_id": row["report_id"],
        "begins_at": row["begins_at"].isoformat(),
        "ends_at": row["ends_at"].isoformat(),
        "successful_sessions": row["successful"],
        "failed_sessions": row["failed"],
        "received_at": uuid7_time(row["id"]).isoformat(),
    }


def _sent(row: Any) -> dict[str, Any]:
    return {
        "domain": row["domain"],
        "day": row["day"].isoformat(),
        "state": row["state"],
        "due_at": row["due_at"].isoformat(),
        "attempts": row["attempt"],
        "sent_at": None if row["sent_at"] is None else row["sent_at"].isoformat(),
        "went_to": row["done"],
        "last_error": row["last_error"],
        "report": row["report"],
    }
