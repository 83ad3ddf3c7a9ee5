"""The MTA-STS policy that a domain of ours publishes, and the DNS records that go with it.

GET, PATCH /v1/domains/{id}/tls; POST /v1/domains/{id}/tls/verify asks the DNS for the records.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.errors import invalid, not_found
from api.pages import path_id
from api.tls import schemas
from api.tls.public import own_policy
from api.tls.records import statuses
from mailcore.dns import mta_sts as format_
from mailcore.dns import tls_rpt
from mailcore.dns.names import normalize_domain
from mailcore.flow.tls_reports import INTAKE, intake_token
from mailcore.kit.errors import Invalid
from mailcore.store import domains, mta_sts

router = APIRouter(prefix="/v1/domains", tags=["tls"])

MAX_AGE = {"testing": 86_400, "enforce": 604_800, "none": 86_400}
"""Seconds, where nobody says: a week once it is enforced (RFC 8461 §10.1: days to weeks)."""


@router.post("/{id}/tls/verify", response_model=None, responses={200: {"model": schemas.DomainTlsVerified}})
async def verify(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What GET shows, with what the DNS says of each record now: verified, missing, other (another value), unknown."""
    shown = await get(id, who, ctx)
    found = await statuses(shown["records"], ctx.resolver)
    return {
        **shown,
        "records": [{**record, "status": status} for record, status in zip(shown["records"], found, strict=True)],
    }


@router.get("/{id}/tls", response_model=None, responses={200: {"model": schemas.DomainTls}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        domain = await domains.find(db, path_id(id))
        if domain is None:
            raise not_found("Domain")
        row = await mta_sts.of_domain(db, domain["id"])
    return _shape(ctx, who.org_id, domain, row)


@router.patch(
    "/{id}/tls",
    response_model=None,
    responses={200: {"model": schemas.DomainTls}},
    openapi_extra=takes(schemas.ChangeTls),
)
async def change(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What is not given stays. A changed policy has another id: publish the records that the answer shows."""
    domain_id = path_id(id)
    asked = await read(request, schemas.ChangeTls)
    given = asked.model_fields_set
    others = None if asked.mx is None else [_pattern(each) for each in asked.mx]
    async with ctx.store.tenant(who.org_id) as db:
        domain = await domains.find_locked(db, domain_id)
        if domain is None:
            raise not_found("Domain")
        row = await mta_sts.of_domain(db, domain_id)
        mode = asked.mode if "mode" in given else (row and row["mode"])
        if mode is None and given - {"mode"}:
            raise invalid("Give a `mode` first: testing, enforce or none.")
        if mode is None:
            await mta_sts.withdraw(db, domain_id)
        elif given:
            if not domain["receiving"]:
                raise invalid("Enable the capability `receiving` first: the policy is about mail to this domain.")
            max_age = asked.max_age if asked.max_age is not None else (row["max_age"] if row else MAX_AGE[mode])
            kept = row["mx"] if row else []
            await mta_sts.publish(db, who.org_id, domain_id, mode, max_age, kept if others is None else others)
        row = await mta_sts.of_domain(db, domain_id)
    return _shape(ctx, who.org_id, domain, row)


def _pattern(text: str) -> str:
    wildcard = text.startswith("*.")
    try:
        return ("*." if wildcard else "") + normalize_domain(text[2:] if wildcard else text)
    except Invalid as error:
        raise invalid(f"Invalid `mx` field. {error.public}") from None


def _shape(ctx: Context, org_id: UUID, domain: Any, row: Any) -> dict[str, Any]:
    name = domain["name"]
    token = intake_token(ctx.keyring.derive("tls-intake"), org_id, domain["id"])
    base = ctx.settings.http.public_url.rstrip("/")
    records = [
        {
            "record": "TLS-RPT",
            "name": tls_rpt.RECORD_PREFIX + name,
            "type": "TXT",
            "value": f"v=TLSRPTv1; rua={base}{INTAKE}{token}",
            "ttl": "Auto",
        }
    ]
    policy = None
    if row is not None:
        published = own_policy(ctx, row["mode"], row["max_age"], row["mx"])
        host = format_.PREFIX + name
        policy = {
            "mode": published.mode,
            "max_age": published.max_age,
            "mx": list(published.mx),
            "id": published.id,
            "url": f"https://{host}{format_.PATH}",
        }
        records += [
            {
                "record": "MTA-STS",
                "name": format_.RECORD_PREFIX + name,
                "type": "TXT",
                "value": f"v=STSv1; id={published.id}",
                "ttl": "Auto",
            },
            {
                "record": "MTA-STS host",
                "name": host,
                "type": "CNAME",
                "value": ctx.domains.published.tracking_host,
                "ttl": "Auto",
            },
        ]
    return {
        "object": "domain_tls",
        "domain_id": str(domain["id"]),
        "domain": name,
        "policy": policy,
        "records": records,
    }
