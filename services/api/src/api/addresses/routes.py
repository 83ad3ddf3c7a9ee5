"""POST, GET /v1/addresses; GET, PATCH, DELETE /v1/addresses/{id}. A change counts at the MX within five seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from fastapi import APIRouter
from starlette.requests import Request

from api.addresses import schemas
from api.addresses.schemas import ChangedAddress, NewAddress
from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.kit.errors import Conflict, Invalid
from mailcore.smtp.address import folded, parse_address
from mailcore.store import addresses

router = APIRouter(prefix="/v1/addresses", tags=["addresses"])

_LIST = {
    "parameters": [
        *PARAMETERS["parameters"],
        {"name": "domain_id", "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}},
    ]
}


@router.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.Address}},
    response_model=None,
    openapi_extra=takes(NewAddress),
)
async def create(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """409 where the address is an alias or refused already. A mailbox of that address stays, and gets no new mail."""
    asked = await read(request, NewAddress)
    address = _address(asked.address, "address")
    targets = _targets(address, asked.kind, asked.targets)
    async with ctx.store.tenant(who.org_id) as db:
        await _own(db, targets)
        made, of_ours = await addresses.create(db, who.org_id, address, kind=asked.kind, targets=targets)
        if not of_ours:
            raise invalid(f"{_domain(address)} is no domain of this organization. Add it by POST /domains first.")
        if made is None:
            raise Conflict("This address is an alias or refused already.")
        row = await addresses.find(db, made)
    return {"object": "address"} | _shape(row)


@router.get("", responses={200: {"model": schemas.AddressList}}, response_model=None, openapi_extra=_LIST)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Newest first."""
    asked, domain = page(request), request.query_params.get("domain_id")
    domain_id = None if domain is None else path_id(domain, "domain_id")
    async with ctx.store.tenant(who.org_id) as db:
        found = await addresses.page(db, asked, domain_id=domain_id)
    return listed(found, _shape)


@router.get("/{id}", responses={200: {"model": schemas.Address}}, response_model=None)
async def get(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    async with ctx.store.tenant(who.org_id) as db:
        row = await addresses.find(db, path_id(id))
    if row is None:
        raise not_found("Address")
    return {"object": "address"} | _shape(row)


@router.patch(
    "/{id}", responses={200: {"model": schemas.Address}}, response_model=None, openapi_extra=takes(ChangedAddress)
)
async def update(id: str, request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(id)
    changed = (await read(request, ChangedAddress)).model_dump(exclude_unset=True)
    async with ctx.store.tenant(who.org_id) as db:
        before = await addresses.find(db, id_)
        if before is None:
            raise not_found("Address")
        kind = changed.get("kind", before["kind"])
        targets = _targets(
            before["address"], kind, changed.get("targets", before["targets"] if kind == "alias" else [])
        )
        await _own(db, targets)
        await addresses.update(db, id_, kind=kind, targets=targets)
        row = await addresses.find(db, id_)
    return {"object": "address"} | _shape(row)


@router.delete("/{id}", responses={200: {"model": schemas.AddressGone}}, response_model=None)
async def delete(id: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(id)
    async with ctx.store.tenant(who.org_id) as db:
        if not await addresses.delete(db, id_):
            raise not_found("Address")
    return {"object": "address", "id": str(id_), "deleted": True}


def _targets(address: str, kind: str, given: Sequence[str]) -> list[str]:
    """Raises ApiError 422."""
    if kind == "reject":
        if given:
            raise invalid("Invalid `targets` field. An address that is refused has none.")
        if addresses.base_of(address.rpartition("@")[0]) in addresses.ALWAYS:
            raise invalid("Invalid `address` field. Every domain takes mail to postmaster and abuse (RFC 2142).")
        return []
    if not given:
        raise invalid("Invalid `targets` field. An alias needs at least one target.")
    targets = [_address(each, "targets") for each in given]
    for target in targets:
        if addresses.base_of(target.rpartition("@")[0]) != target.rpartition("@")[0]:
            raise invalid("Invalid `targets` field. A target is a mailbox: leave its +tag out.")
    return list(dict.fromkeys(targets))


async def _own(db: asyncpg.Connection, targets: Sequence[str]) -> None:
    foreign = await addresses.foreign_domains(db, [_domain(target) for target in targets])
    if foreign:
        raise invalid(
            f"Invalid `targets` field. {foreign[0]} is no domain of this organization. Mail leaves it by a route that "
            "forwards: POST /v1/routes."
        )


def _address(text: str, field: str) -> str:
    try:
        return folded(parse_address(text.strip(" "), allow_quoted=True))
    except Invalid as error:
        raise invalid(f"Invalid `{field}` field. {error.public}") from None


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "address": row["address"],
        "kind": row["kind"],
        "targets": list(row["targets"]),
        "domain_id": str(row["domain_id"]),
        "created_at": row["created_at"].isoformat(),
    }
