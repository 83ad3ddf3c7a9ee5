"""DKIM keys of a domain: GET, POST /v1/domains/:id/dkim-keys; POST …/import, …/rotate; GET, PATCH …/rotation; GET …/:key_id,
POST …/:key_id/retire."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from api.auth import FullAccess
from api.body import Asked, read, takes
from api.context import Context, Ctx
from api.errors import not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.dns.required import dkim_key, relative_name
from mailcore.dns.verdict import NOT_STARTED, PENDING, VERIFIED
from mailcore.flow.advice import dkim_advice
from mailcore.flow.dkim import rotation_at, selector_name
from mailcore.mailauth.dkim.record import parse_record
from mailcore.store import dkim_keys
from mailcore.store.dkim_keys import ACTIVE

router = APIRouter(prefix="/v1/domains/{id}/dkim-keys", tags=["domains"])


Algorithm = Literal["rsa-sha256", "ed25519-sha256"]


class NewDkimKey(Asked):
    algorithm: Algorithm = "rsa-sha256"
    selector: str | None = Field(None, max_length=253)
    """Left out: one is made."""


class BroughtDkimKey(Asked):
    selector: str = Field(max_length=253)
    private_key: str = Field(max_length=20_000)
    """PEM, RSA with 1,024 to 4,096 bits or Ed25519, without a passphrase. It is stored sealed and never shown."""


class RotationAsked(Asked):
    algorithms: list[Algorithm] = Field(["rsa-sha256", "ed25519-sha256"], min_length=1, max_length=2)


class Retirement(Asked):
    at_once: bool = False
    """Without an overlap, for a key that others may have: mail that it has signed and is under way may fail."""


class Schedule(Asked):
    every_days: int | None = Field(None, ge=30, le=1000)
    """New keys are made so many days after those in use began to sign. null: when somebody asks."""


class DkimRecord(BaseModel):
    type: Literal["TXT"]
    name: str
    """Relative to the registered domain, as in the domain's `records`."""
    fqdn: str
    value: str
    ttl: str
    status: str
    """not_started: nobody has looked; pending: not found; verified: found."""


class DkimKey(BaseModel):
    object: Literal["dkim_key"]
    id: str
    domain_id: str
    selector: str
    algorithm: str
    bits: int
    origin: Literal["made", "imported"]
    state: Literal["pending", "published", "active", "retiring", "retired"]
    record: DkimRecord
    advice: str | None
    """What its owner should do about it; null: nothing."""
    created_at: str
    seen_at: str | None
    published_at: str | None
    active_since: str | None
    keep_until: str | None
    retired_at: str | None


class DkimKeyList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[DkimKey]


class Rotation(BaseModel):
    object: Literal["dkim_rotation"]
    domain_id: str
    every_days: int | None
    next_at: str | None
    """null: no rotation is to come, or the next keys wait for their records already."""


@router.get("", response_model=None, responses={200: {"model": DkimKeyList}}, openapi_extra=PARAMETERS)
async def list_(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    domain_id = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if await dkim_keys.domain(db, domain_id) is None:
            raise not_found("Domain")
        found = await dkim_keys.page(db, domain_id, asked)
    return listed(found, shown)


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": DkimKey}},
    openapi_extra=takes(NewDkimKey, required=False),
)
async def create(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """A new key. It signs once its record has been seen published; the one of the same algorithm before it then retires."""
    domain_id = path_id(id)
    asked = await read(request, NewDkimKey)
    selector = None if asked.selector is None else selector_name(asked.selector)
    return await _one(
        ctx, who.org_id, domain_id, await ctx.dkim.create(who.org_id, domain_id, asked.algorithm, selector)
    )


@router.post(
    "/import",
    status_code=201,
    response_model=None,
    responses={201: {"model": DkimKey}},
    openapi_extra=takes(BroughtDkimKey),
)
async def bring(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """A key of one's own, which is used as one that was made here: once its record has been seen published."""
    domain_id = path_id(id)
    asked = await read(request, BroughtDkimKey)
    selector = selector_name(asked.selector)
    return await _one(
        ctx, who.org_id, domain_id, await ctx.dkim.bring(who.org_id, domain_id, selector, asked.private_key)
    )


@router.post(
    "/rotate",
    status_code=201,
    response_model=None,
    responses={201: {"model": DkimKeyList}},
    openapi_extra=takes(RotationAsked, required=False),
)
async def rotate(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The keys that come next, with the records to publish; asked again, the same ones as long as they wait."""
    domain_id = path_id(id)
    asked = await read(request, RotationAsked)
    ids = await ctx.dkim.rotate(who.org_id, domain_id, list(dict.fromkeys(asked.algorithms)))
    return {
        "object": "list",
        "has_more": False,
        "data": [await _one(ctx, who.org_id, domain_id, each) for each in ids],
    }


@router.get("/rotation", response_model=None, responses={200: {"model": Rotation}})
async def rotation(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    domain_id = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        row = await dkim_keys.domain(db, domain_id)
        keys = await dkim_keys.of_domain(db, domain_id)
    if row is None:
        raise not_found("Domain")
    at = rotation_at(row, keys)
    return {
        "object": "dkim_rotation",
        "domain_id": str(domain_id),
        "every_days": row["dkim_rotate_days"],
        "next_at": at and at.isoformat(),
    }


@router.patch("/rotation", response_model=None, responses={200: {"model": Rotation}}, openapi_extra=takes(Schedule))
async def reschedule(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    domain_id = path_id(id)
    asked = await read(request, Schedule)
    if "every_days" in asked.model_fields_set:
        await ctx.dkim.schedule(who.org_id, domain_id, asked.every_days)
    return await rotation(id, who, ctx)


@router.get("/{key_id}", response_model=None, responses={200: {"model": DkimKey}})
async def get(id: str, key_id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    return await _one(ctx, who.org_id, path_id(id), path_id(key_id, "key_id"))


@router.post(
    "/{key_id}/retire",
    response_model=None,
    responses={200: {"model": DkimKey}},
    openapi_extra=takes(Retirement, required=False),
)
async def retire(id: str, key_id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """A key that waits is dropped; one that signs goes on being published for a while. The RSA key in use is rotated instead."""
    domain_id, wanted = path_id(id), path_id(key_id, "key_id")
    asked = await read(request, Retirement)
    await ctx.dkim.retire(who.org_id, domain_id, wanted, at_once=asked.at_once)
    return await _one(ctx, who.org_id, domain_id, wanted)


async def _one(ctx: Context, org_id: UUID, domain_id: UUID, key_id: UUID) -> dict[str, Any]:
    async with ctx.store.tenant(org_id) as db:
        row = await dkim_keys.find(db, domain_id, key_id)
    if row is None:
        raise not_found("DKIM key")
    return shown(row)


def shown(row: Any) -> dict[str, Any]:
    """`row` as store.dkim_keys.page gives it."""
    fqdn = f"{row['selector']}._domainkey.{row['name']}"
    return {
        "object": "dkim_key",
        "id": str(row["id"]),
        "domain_id": str(row["domain_id"]),
        "selector": row["selector"],
        "algorithm": row["algorithm"],
        "bits": parse_record(row["public_txt"]).bits,
        "origin": row["origin"],
        "state": row["state"],
        "record": {
            "type": "TXT",
            "name": relative_name(fqdn),
            "fqdn": fqdn,
            "value": row["public_txt"],
            "ttl": "Auto",
            "status": _record_status(row),
        },
        "advice": dkim_advice(row, row["name"]),
        **{
            name: row[name] and row[name].isoformat()
            for name in ("created_at", "seen_at", "published_at", "active_since", "keep_until", "retired_at")
        },
    }


def _record_status(row: Any) -> str:
    if row["state"] == ACTIVE:  # required of the domain, which is looked at by itself
        known: dict[str, str] = row["record_status"]
        if not known and row["status"] == VERIFIED:
            return VERIFIED
        return known.get(dkim_key(row["selector"]), NOT_STARTED if row["status"] == NOT_STARTED else PENDING)
    return NOT_STARTED if row["seen"] is None else VERIFIED if row["seen"] else PENDING
