"""POST, GET /domains; GET, DELETE /domains/:id; POST /domains/:id/verify."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Context, Ctx
from api.domains import schemas
from api.errors import ApiError, invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.dns.names import normalize_domain
from mailcore.dns.required import Required, relative_name, required_records
from mailcore.kit.errors import Invalid
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, generate_ed25519, generate_rsa
from mailcore.queue.jobs import VERIFY
from mailcore.store import domains
from mailcore.store.domains import NewDomain, NewKey

router = APIRouter(tags=["domains"])

RSA_SELECTOR = "postroom"
ED25519_SELECTOR = "postroom-ed25519"


@router.post(
    "/domains",
    status_code=201,
    response_model=None,
    responses={201: {"model": schemas.DomainCreated}},
    openapi_extra=takes(schemas.CreateDomain),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = await read(request, schemas.CreateDomain)
    name = _name(asked.name)
    if asked.capabilities.sending == asked.capabilities.receiving == "disabled":
        raise invalid("Enable at least one of the capabilities `sending` and `receiving`.")
    domain = NewDomain(
        id=uuid7(),
        org_id=who.org_id,
        name=name,
        region=asked.region,
        sending=asked.capabilities.sending == "enabled",
        receiving=asked.capabilities.receiving == "enabled",
        custom_return_path=asked.custom_return_path,
        open_tracking=asked.open_tracking,
        click_tracking=asked.click_tracking,
        tracking_subdomain=asked.tracking_subdomain,
        tls=asked.tls,
        created_at=datetime.now(UTC),
    )
    keys = await asyncio.to_thread(_dkim_keys, ctx.keyring)  # an RSA key takes some 100 ms
    async with ctx.store.tenant(who.org_id) as db:
        made = not await domains.taken(db, name, who.org_id) and await domains.insert(db, domain, keys)
        row = await domains.find(db, domain.id) if made else None
    if row is None:
        raise ApiError(403, "validation_error", f"The `{name}` domain has been registered already.")
    return _created(ctx, row)


@router.get("/domains", response_model=None, responses={200: {"model": schemas.DomainList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request, default=None)
    async with ctx.store.tenant(who.org_id) as db:
        found = await domains.page(db, asked)
    return listed(found, _summary)


@router.get("/domains/{id}", response_model=None, responses={200: {"model": schemas.Domain}})
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await domains.find(db, path_id(id))
    if row is None:
        raise not_found("Domain")
    return {
        "object": "domain",
        **_created(ctx, row),
        "custom_return_path": row["custom_return_path"],
        "tls": row["tls"],
    }


@router.post("/domains/{id}/verify", response_model=None, responses={200: {"model": schemas.DomainId}})
async def verify(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Asks for a look at the domain's DNS. A verified domain goes on sending meanwhile."""
    domain_id = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await domains.begin_verification(db, domain_id):
            raise not_found("Domain")
    # when Redis is away, the sweep of pending domains comes to it
    await ctx.ringer.enqueue(VERIFY, str(domain_id))
    return _id(domain_id)


@router.delete("/domains/{id}", response_model=None, responses={200: {"model": schemas.DomainDeleted}})
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    domain_id = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await domains.delete(db, domain_id):
            raise not_found("Domain")
    return {**_id(domain_id), "deleted": True}


def _name(text: str) -> str:
    try:
        name = normalize_domain(text.strip(" "))
    except Invalid as error:
        raise invalid(f"Invalid `name` field. {error.public}") from None
    if "." not in name:
        raise invalid("Invalid `name` field. It must be a full domain name such as `example.com`.")
    return name


def _dkim_keys(keyring: Keyring) -> list[NewKey]:
    keys = []
    for selector, algorithm, (private, public_txt) in (
        (RSA_SELECTOR, RSA_SHA256, generate_rsa()),
        (ED25519_SELECTOR, ED25519_SHA256, generate_ed25519()),
    ):
        keys.append(NewKey(uuid7(), selector, algorithm, keyring.seal(private, "dkim"), public_txt))
    return keys


def _id(domain_id: UUID) -> dict[str, Any]:
    return {"object": "domain", "id": str(domain_id)}


def _summary(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "name": row["name"],
        "status": row["status"],
        "created_at": row["created_at"].isoformat(),
        "region": row["region"],
        "open_tracking": row["open_tracking"],
        "click_tracking": row["click_tracking"],
        "tracking_subdomain": row["tracking_subdomain"],
        "capabilities": {
            "sending": "enabled" if row["sending"] else "disabled",
            "receiving": "enabled" if row["receiving"] else "disabled",
        },
    }


def _created(ctx: Context, row: Any) -> dict[str, Any]:
    published = ctx.settings.domains
    wanted = required_records(
        row["name"],
        dkim=[(key["selector"], key["public_txt"]) for key in row["dkim"]],
        mx_host=published.mx_host,
        spf=published.spf_mechanism,
        return_path=row["custom_return_path"],
        sending=row["sending"],
        receiving=row["receiving"],
    )
    unseen = "pending" if row["status"] == "pending" else "not_started"
    return {
        **_summary(row),
        "records": [_record(each, row["record_status"].get(each.key, unseen)) for each in wanted],
    }


def _record(required: Required, status: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "record": required.record,
        "name": relative_name(required.fqdn),
        "type": required.type,
        "ttl": "Auto",
        "status": status,
        # the SPF text carries its own quotes, as on the live service (resend.md §6)
        "value": f'"{required.value}"' if required.record == "SPF" and required.type == "TXT" else required.value,
    }
    if required.priority is not None:
        shown["priority"] = required.priority
    return shown
