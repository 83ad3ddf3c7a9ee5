"""Who asks, of which organization, and what they may do (resend.md §1.2): an API key, or a person by token or by cookie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.context import Context, context
from api.errors import ApiError
from api.people import cookies
from mailcore.store.people import Session

ADMINS_ONLY: tuple[tuple[str, bool], ...] = (
    ("/api-keys", False),
    ("/oauth", False),
    ("/logs", False),
    ("/v1/auth/events", False),
    ("/webhooks", False),  # their secrets sign for the organization
    ("/domains", True),
    ("/v1/domains", True),
    ("/suppressions", True),
    ("/v1/accounts", True),
    ("/v1/mailboxes", True),
    ("/v1/addresses", True),
    ("/v1/ways", True),
    ("/v1/routes-out", True),
    ("/v1/routes", True),
    ("/v1/quarantine", True),
    ("/v1/dmarc", True),
)
"""What a member of an organization may not do, its owner and admins may: paths and all below them; True: reading is for all."""


WHO = "postroom.who"
"""Where the request's scope keeps its Principal, for edge."""


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
    session: Session | None = None
    """Of the person."""


async def authenticate(request: HTTPConnection) -> Principal:
    """Any valid key or session; counts against the organization's rate. Raises ApiError 400, 401, 403, 429; Unavailable."""
    ctx: Context = context(request)
    authorization = request.headers.get("authorization")
    if authorization is None and (secret := cookies.secret_of(request, ctx.settings.http.public_url)) is not None:
        return await _person(request, ctx, await _by_cookie(request, ctx, secret))
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() == "bearer" and (token.count(".") == 2 or token.startswith("eyJ")):  # no key of ours is so
        return await _person(request, ctx, await _by_token(ctx, token))
    if scheme.lower() != "bearer" or not token:
        raise ApiError(
            401, "missing_api_key", "Missing API key in the authorization header.", {"www-authenticate": 'realm=""'}
        )
    key = await ctx.keys.find(token)
    if key is None:
        raise ApiError(400, "validation_error", "API key is invalid")
    who = Principal(key.org_id, key.permission, key.domain_ids, key_id=key.id)
    return await _count(request, ctx, who, key.rate_limit)


async def authenticate_fully(request: HTTPConnection) -> Principal:
    """A key that may do more than send. Raises as `authenticate`, and 401 `restricted_api_key`."""
    principal = await authenticate(request)
    if principal.permission != "full_access":
        raise ApiError(401, "restricted_api_key", "This API key is restricted to only send emails")
    if principal.role == "member" and _is_admins(request.scope["path"], request.scope.get("method", "GET")):
        raise ApiError(403, "invalid_permission", "Only the owner and the admins of this organization may do this.")
    return principal


async def authenticate_person(request: HTTPConnection) -> Principal:
    """Somebody who signed in. Raises as `authenticate_fully`, and 403 for an API key."""
    principal = await authenticate_fully(request)
    if principal.session is None:
        raise ApiError(403, "invalid_permission", "This is for people: sign in. An API key is nobody's session.")
    return principal


async def _count(
    request: HTTPConnection, ctx: Context, principal: Principal, own_limit: int | None = None
) -> Principal:
    """From here on the request is the organization's, for the log of calls too, whether it is answered or refused for its rate."""
    request.scope[WHO] = principal
    await ctx.limits.count(request.scope, principal.org_id, own_limit)
    return principal


async def _person(request: HTTPConnection, ctx: Context, session: Session | None) -> Principal:
    if session is None:
        raise ApiError(401, "invalid_session", "You are not signed in, or no longer. Sign in again.")
    who = Principal(session.org_id, "full_access", user_id=session.user_id, role=session.role, session=session)
    return await _count(request, ctx, who)


async def _by_cookie(request: HTTPConnection, ctx: Context, secret: str) -> Session | None:
    cookies.check_own_page(request, ctx.settings.http.public_url)
    session = await ctx.people.find(secret)
    return session if session is not None and session.kind == "browser" else None


async def _by_token(ctx: Context, token: str) -> Session | None:
    claims = ctx.tokens.read(token)
    if claims is None:
        return None
    session = await ctx.people.find(claims.secret)
    if session is None or session.kind != "token":
        return None
    return session if (session.user_id, session.org_id) == (claims.user_id, claims.org_id) else None


def _is_admins(path: str, method: str) -> bool:
    for start, may_read in ADMINS_ONLY:
        if path == start or path.startswith(start + "/"):
            return not (may_read and method in ("GET", "HEAD"))
    return False


FullAccess = Annotated[Principal, Depends(authenticate_fully)]
"""What a route outside the sending ones takes: `async def list_(who: FullAccess, ctx: Ctx, …)`."""

Someone = Annotated[Principal, Depends(authenticate_person)]
"""What a route about the person who asks takes."""
