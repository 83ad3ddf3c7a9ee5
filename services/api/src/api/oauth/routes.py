"""GET /oauth/grants, DELETE /oauth/grants/:id: clients list and revoke them, so both answer, truthfully: there are none."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from api.auth import FullAccess
from api.errors import ApiError
from api.pages import PARAMETERS, listed, page, path_id
from mailcore.store.pages import Slice

router = APIRouter(prefix="/oauth/grants", tags=["oauth"])


class OAuthGrantList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[dict[str, Any]]


@router.get("", response_model=None, responses={200: {"model": OAuthGrantList}}, openapi_extra=PARAMETERS)
async def list_(request: Request, who: FullAccess) -> dict[str, Any]:
    page(request)
    return listed(Slice([], False), dict)


@router.delete("/{id}", response_model=None)
async def revoke(id: str, who: FullAccess) -> dict[str, Any]:
    path_id(id)
    raise ApiError(404, "not_found", "OAuth grant not found. Perhaps it was already revoked?")
