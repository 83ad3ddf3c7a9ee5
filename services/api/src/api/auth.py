"""Who asks: the bearer token's organization and what it may do (resend.md §1.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.context import Context, context
from api.errors import ApiError


@dataclass(frozen=True, slots=True)
class Principal:
    org_id: UUID
    permission: str
    """`full_access` or `sending_access`."""
    domain_ids: frozenset[UUID] | None = None
    """A key limited to these domains sends from no other; None: from all of the organization's."""
    key_id: UUID | None = None
    """Of an API key …"""
    user_id: UUID | None = None
    """… or of a person who signed in."""
    role: str | None = None
    """Of the person in this organization: owner, admin, member."""


async def authenticate(request: HTTPConnection) -> Principal:
    """Any valid key; counts against the organization's rate. Raises ApiError 400, 401, 429; Unavailable."""
    ctx: Context = context(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ApiError(
            401, "missing_api_key", "Missing API key in the authorization header.", {"www-authenticate": 'realm=""'}
        )
    key = await ctx.keys.find(token)
    if key is None:
        raise ApiError(400, "validation_error", "API key is invalid")
    if ctx.rate.limit:
        request.scope["postroom.rate"] = rate = await ctx.rate.take(key.org_id)
        if rate.exceeded:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"Too many requests. You can only make {rate.limit} requests per second. See rate limit response headers "
                "for more information.",
                {"retry-after": str(rate.reset)},
            )
    domains = None if key.domain_id is None else frozenset((key.domain_id,))
    return Principal(key.org_id, key.permission, domains, key_id=key.id)


async def authenticate_fully(request: HTTPConnection) -> Principal:
    """A key that may do more than send. Raises as `authenticate`, and 401 `restricted_api_key`."""
    principal = await authenticate(request)
    if principal.permission != "full_access":
        raise ApiError(401, "restricted_api_key", "This API key is restricted to only send emails")
    return principal


FullAccess = Annotated[Principal, Depends(authenticate_fully)]
"""What a route outside the sending ones takes: `async def list_(who: FullAccess, ctx: Ctx, …)`."""
