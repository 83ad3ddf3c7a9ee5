"""POST, GET /suppressions; GET, DELETE /suppressions/{id or email}; POST /suppressions/batch/add and /batch/remove."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import FullAccess
from api.body import read, takes
from api.context import Ctx
from api.errors import invalid, not_found
from api.pages import PARAMETERS, listed, page, path_id
from api.suppressions import schemas
from api.suppressions.schemas import GoneSuppressions, NewSuppression, NewSuppressions
from mailcore.flow import suppress
from mailcore.kit.errors import Invalid
from mailcore.smtp.address import parse_address
from mailcore.store import suppressions
from mailcore.store.suppressions import ORIGINS, folded

router = APIRouter(prefix="/suppressions", tags=["suppressions"])

_ORIGIN = {"name": "origin", "in": "query", "required": False, "schema": {"type": "string", "enum": list(ORIGINS)}}


@router.post(
    "",
    status_code=201,
    responses={201: {"model": schemas.SuppressionId}},
    response_model=None,
    openapi_extra=takes(NewSuppression),
)
async def add(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """An address that is on the list already stays as it is, and its id is the answer."""
    asked = await read(request, NewSuppression)
    (id_,) = await suppress.add(ctx.store, ctx.ringer, who.org_id, [_email(asked.email, "email")])
    return {"object": "suppression", "id": str(id_)}


@router.post(
    "/batch/add",
    status_code=201,
    responses={201: {"model": schemas.SuppressionIds}},
    response_model=None,
    openapi_extra=takes(NewSuppressions),
)
async def add_batch(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """All or none; the ids come in the order of the addresses."""
    asked = await read(request, NewSuppressions)
    emails = [_email(email, f"emails.{n}") for n, email in enumerate(asked.emails)]
    ids = await suppress.add(ctx.store, ctx.ringer, who.org_id, emails)
    return {"data": [{"object": "suppression", "id": str(id_)} for id_ in ids]}


@router.post(
    "/batch/remove",
    responses={200: {"model": schemas.SuppressionsGone}},
    response_model=None,
    openapi_extra=takes(GoneSuppressions),
)
async def remove_batch(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """Answers with those that were on the list."""
    asked = await read(request, GoneSuppressions)
    gone = await suppress.remove(
        ctx.store,
        ctx.ringer,
        who.org_id,
        ids=[path_id(id_, f"ids.{n}") for n, id_ in enumerate(asked.ids or ())],
        emails=[_email(email, f"emails.{n}") for n, email in enumerate(asked.emails or ())],
    )
    return {"data": [_gone(id_) for id_ in gone]}


@router.get(
    "",
    responses={200: {"model": schemas.SuppressionList}},
    response_model=None,
    openapi_extra={"parameters": [*PARAMETERS["parameters"], _ORIGIN]},
)
async def list_(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    asked = page(request)
    origin = request.query_params.get("origin")
    if origin is not None and origin not in ORIGINS:
        raise invalid(f"The `origin` must be one of {', '.join(ORIGINS)}.", "invalid_parameter")
    async with ctx.store.tenant(who.org_id) as db:
        found = await suppressions.page(db, asked, origin)
    return listed(found, _shape)


# an address may hold a slash
@router.get("/{suppression:path}", responses={200: {"model": schemas.Suppression}}, response_model=None)
async def get(suppression: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """By id or by address."""
    async with ctx.store.tenant(who.org_id) as db:
        row = await suppressions.find(db, _key(suppression))
    if row is None:
        raise not_found("Suppression")
    return {"object": "suppression", **_shape(row)}


@router.delete("/{suppression:path}", responses={200: {"model": schemas.SuppressionGone}}, response_model=None)
async def remove(suppression: str, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """By id or by address."""
    key = _key(suppression)
    ids, emails = ([key], []) if isinstance(key, UUID) else ([], [key])
    gone = await suppress.remove(ctx.store, ctx.ringer, who.org_id, ids=ids, emails=emails)
    if not gone:
        raise not_found("Suppression")
    return _gone(gone[0])


def _key(text: str) -> UUID | str:
    """Raises ApiError 422."""
    return _email(text, "suppression") if "@" in text else path_id(text, "suppression")


def _email(text: str, field: str) -> str:
    """Raises ApiError 422."""
    try:
        return folded(str(parse_address(text.strip(" "), allow_quoted=True)))
    except Invalid:
        raise invalid(
            f"Invalid `{field}` field. The email address needs to follow the `email@example.com` format."
        ) from None


def _gone(id_: UUID) -> dict[str, Any]:
    return {"object": "suppression", "id": str(id_), "deleted": True}


def _shape(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "email": row["email"],
        "origin": row["origin"],
        "source_id": None if row["source_id"] is None else str(row["source_id"]),
        "created_at": row["created_at"].isoformat(),
    }
