"""DMARC reports about our domains, and what they come to.

GET /v1/dmarc/reports[/{id}]   what came, newest first
POST /v1/dmarc/reports         one that came elsewhere: its file, XML, gzip or zip
GET /v1/dmarc/sources          who sends in the name of our domains, address by address: what fails most comes first
GET /v1/dmarc/domains          the same, domain by domain
"""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.dmarc import schemas
from api.emails.reading import moment_of
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id, plain_limit
from mailcore.dsn import dmarc_report
from mailcore.dsn.dmarc_report import BrokenReport
from mailcore.flow.dmarc_reports import Letter, receive
from mailcore.kit.ids import uuid7_time
from mailcore.store import dmarc_reports
from mailcore.store.dmarc_reports import Asked

router = APIRouter(prefix="/v1/dmarc", tags=["dmarc"])

DAYS = 30
"""Back from now, where nobody says since when."""
MAX_OFFSET = 10_000
_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def _query(name: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string", **schema}}


_TIME = [
    _query("domain_id", format="uuid"),
    _query("start_date", description=f"ISO 8601; {DAYS} days ago where it is left out."),
    _query("end_date"),
    _query("proven", type="boolean", description="Only what proven senders report."),
]


@router.get(
    "/reports",
    response_model=None,
    responses={200: {"model": schemas.ReportList}},
    openapi_extra={"parameters": [*PARAMETERS["parameters"], _query("domain_id", format="uuid")]},
)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    domain = request.query_params.get("domain_id")
    async with ctx.store.tenant(who.org_id) as db:
        found = await dmarc_reports.page(db, asked, path_id(domain, "domain_id") if domain is not None else None)
    return listed(found, _summary)


@router.post(
    "/reports",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.Uploaded}, 200: {"model": schemas.Uploaded}},
    openapi_extra=takes(schemas.Upload),
)
async def upload(request: Request, who: FullAccess, ctx: Ctx) -> Response:
    """201 for a new report, 200 for one that came before. What it is is told by its octets."""
    asked = await read(request, schemas.Upload)
    try:
        octets = base64.b64decode("".join(asked.content.split()), validate=True)
        report = await asyncio.to_thread(lambda: dmarc_report.read(dmarc_report.unpack(octets)))
    except BrokenReport as error:
        raise invalid(f"{str(error).capitalize()}.") from None
    except ValueError:
        raise invalid("Invalid `content`. Give the report's file in base64.") from None
    letter = Letter(who.org_id, None, "", None, uploaded=True)
    domain, id_ = await receive(ctx.store, letter, report)
    shown = {
        "object": "dmarc_report",
        "id": None if id_ is None else str(id_),
        "domain": domain,
        "report_id": report.report_id,
    }
    return JSONResponse(shown, 200 if id_ is None else 201)


@router.get("/reports/{id}", response_model=None, responses={200: {"model": schemas.Report}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id, snapshot=True) as db:
        row = await dmarc_reports.find(db, path_id(id))
        if row is None:
            raise not_found("DMARC report")
        rows = await dmarc_reports.rows(db, row["id"])
    shown = {
        "policy": row["policy"],
        "defects": row["defects"],
        "rows": [
            {
                "source_ip": each["source_ip"],
                "messages": each["messages"],
                "dkim_aligned": each["dkim"],
                "spf_aligned": each["spf"],
                "disposition": each["disposition"],
                "header_from": each["header_from"],
                "envelope_from": each["envelope_from"],
                "reasons": each["reasons"],
                "results": each["results"],
            }
            for each in rows
        ],
    }
    return {"object": "dmarc_report", **_summary(row), **shown}


@router.get(
    "/sources",
    response_model=None,
    responses={200: {"model": schemas.SourceList}},
    openapi_extra={
        "parameters": [
            PARAMETERS["parameters"][0],
            _query("offset", type="integer", minimum=0, maximum=MAX_OFFSET),
            *_TIME,
            _query("failing", type="boolean", description="Only addresses of which something failed."),
        ]
    },
)
async def sources(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Each address that receivers saw mail of ours from, or mail that only says so."""
    asked, limit, offset = _asked(request), plain_limit(request), _offset(request)
    async with ctx.store.search(who.org_id) as db:
        found = await dmarc_reports.sources(db, asked, limit=limit + 1, offset=offset)
    return {"object": "list", "has_more": len(found) > limit, "data": [_source(row) for row in found[:limit]]}


@router.get(
    "/domains",
    response_model=None,
    responses={200: {"model": schemas.DomainList}},
    openapi_extra={"parameters": _TIME},
)
async def domains(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What receivers saw in the name of each domain; domains that nobody reports of are left out."""
    async with ctx.store.search(who.org_id) as db:
        found = await dmarc_reports.domains(db, _asked(request))
    counted = ("sources", "failing_sources", "reports")
    return {"object": "list", "data": [_counts(row) | {name: row[name] for name in counted} for row in found]}


# ---- what is asked ---------------------------------------------------------------------------------------------------


def _asked(request: Request) -> Asked:
    query = request.query_params
    domain = query.get("domain_id")
    now = datetime.now(UTC)
    return Asked(
        since=moment_of(query.get("start_date"), "start_date") or now - timedelta(days=DAYS),
        until=moment_of(query.get("end_date"), "end_date", end=True) or now + timedelta(days=1),
        domain_id=path_id(domain, "domain_id") if domain is not None else None,
        failing=_flag(request, "failing"),
        proven=_flag(request, "proven"),
    )


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in _FLAGS:
        raise invalid(f"Invalid `{name}`. Use true or false.")
    return _FLAGS[text]


def _offset(request: Request) -> int:
    text = request.query_params.get("offset", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= MAX_OFFSET):
        raise invalid(f"Invalid `offset`. Use a number from 0 to {MAX_OFFSET}.")
    return int(text)


# ---- what is shown ---------------------------------------------------------------------------------------------------


def _summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "domain_id": str(row["domain_id"]),
        "domain": row["domain"],
        "arrival_id": row["arrival_id"] and str(row["arrival_id"]),
        "source": row["source"],
        "proven": row["proven"],
        "organization": row["organization"],
        "contact": row["contact"],
        "report_id": row["report_id"],
        "begins_at": row["begins_at"].isoformat(),
        "ends_at": row["ends_at"].isoformat(),
        "messages": row["messages"],
        "passed": row["passed"],
        "failed": row["messages"] - row["passed"],
        "quarantined": row["quarantined"],
        "rejected": row["rejected"],
        "received_at": uuid7_time(row["id"]).isoformat(),
    }


def _counts(row: Any) -> dict[str, Any]:
    counted = ("messages", "passed", "failed", "quarantined", "rejected")
    times = ("first_seen", "last_seen", "failing_since", "last_failed")
    return {
        "domain_id": str(row["domain_id"]),
        "domain": row["domain"],
        **{name: row[name] or 0 for name in counted},
        **{name: row[name] and row[name].isoformat() for name in times},
    }


def _source(row: Any) -> dict[str, Any]:
    lists = ("header_from", "envelope_from", "reported_by")
    return {
        "source_ip": row["source_ip"],
        **_counts(row),
        "dkim_aligned": row["dkim_aligned"] or 0,
        "spf_aligned": row["spf_aligned"] or 0,
        **{name: [text for text in row[name] if text] for name in lists},
    }
