"""Who I am, where I am signed in, my password, my organizations: /v1/auth/…; who else is here: GET /v1/users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from api.auth import FullAccess, Principal, Someone
from api.body import read, takes
from api.context import Ctx
from api.errors import ApiError, invalid
from api.pages import PARAMETERS, listed, page, path_id
from api.people import cookies
from api.people.admission import PASSWORD, admit, admit_account, forget_account
from api.people.door import keep_nowhere
from api.people.schemas import (
    AuthEventList,
    ChangePassword,
    Me,
    MemberList,
    PasswordChanged,
    SessionDeleted,
    SessionList,
    SessionsDeleted,
    Switch,
    Switched,
    answers,
)
from api.people.visit import visit
from mailcore.flow.people import SignedIn
from mailcore.kit.ids import uuid7_time
from mailcore.store import people
from mailcore.store.people import Session

router = APIRouter(tags=["people"], dependencies=[Depends(keep_nowhere)])

_SCOPE = {
    "name": "scope",
    "in": "query",
    "required": False,
    "description": "installation: everything, for the installation's admins. Default: of this organization.",
    "schema": {"type": "string", "enum": ["organization", "installation"]},
}


@router.get("/v1/auth/me", response_model=None, responses=answers(200, Me, 403))
async def me(request: Request, response: Response, who: Someone, ctx: Ctx) -> dict[str, Any]:
    """Also puts the end of the browser's cookie off again, as every use does for its session here."""
    session = _session(who)
    async with ctx.store.people() as db:
        user = await people.user(db, session.user_id)
        joined = await people.memberships(db, session.user_id)
    if user is None:
        raise ApiError(401, "invalid_session", "You are not signed in, or no longer. Sign in again.")
    public_url = ctx.settings.http.public_url
    if session.kind == "browser" and (secret := cookies.secret_of(request, public_url)) is not None:
        cookies.keep(response, request, public_url, secret)
    organizations = [{"id": str(row["org_id"]), "name": row["name"], "role": row["role"]} for row in joined]
    return {
        "object": "user",
        "id": str(user["id"]),
        "email": user["email"],
        "name": user["name"],
        "admin": user["admin"],
        "created_at": user["created_at"].isoformat(),
        "organization": next(each for each in organizations if each["id"] == str(session.org_id)),
        "organizations": organizations,
        "session": {"id": str(session.id), "kind": session.kind},
    }


@router.delete("/v1/auth/session", response_model=None, responses=answers(200, SessionDeleted, 403))
async def sign_out(request: Request, response: Response, who: Someone, ctx: Ctx) -> dict[str, Any]:
    session = _session(who)
    await ctx.people.sign_out(session, visit(request))
    cookies.drop(response, request, ctx.settings.http.public_url)
    return {"object": "session", "id": str(session.id), "deleted": True}


@router.get(
    "/v1/auth/sessions", response_model=None, responses=answers(200, SessionList, 403), openapi_extra=PARAMETERS
)
async def list_sessions(request: Request, who: Someone, ctx: Ctx) -> dict[str, Any]:
    """Where I am signed in, in every organization."""
    session, asked = _session(who), page(request)
    async with ctx.store.people() as db:
        found = await people.page_of_sessions(db, session.user_id, asked)
    return listed(found, lambda row: _shown_session(row, session))


@router.delete("/v1/auth/sessions", response_model=None, responses=answers(200, SessionsDeleted, 403))
async def sign_out_everywhere(request: Request, response: Response, who: Someone, ctx: Ctx) -> dict[str, Any]:
    """Every session of mine, this one too: browsers and tokens."""
    ended = await ctx.people.end_all(_session(who), visit(request))
    cookies.drop(response, request, ctx.settings.http.public_url)
    return {"object": "session", "deleted": ended}


@router.delete("/v1/auth/sessions/{session_id}", response_model=None, responses=answers(200, SessionDeleted, 403))
async def end_session(session_id: str, request: Request, who: Someone, ctx: Ctx) -> dict[str, Any]:
    id_ = path_id(session_id)
    await ctx.people.end(_session(who), id_, visit(request))
    return {"object": "session", "id": str(id_), "deleted": True}


@router.post(
    "/v1/auth/password",
    response_model=None,
    responses=answers(200, PasswordChanged, 401, 403),
    openapi_extra=takes(ChangePassword),
)
async def change_password(request: Request, who: Someone, ctx: Ctx) -> dict[str, Any]:
    """Ends every other session of mine."""
    session, seen = _session(who), visit(request)
    asked = await read(request, ChangePassword)
    await admit(ctx, PASSWORD, seen)
    await admit_account(ctx, PASSWORD, str(session.user_id), seen)
    ended = await ctx.people.change_password(session, asked.old_password, asked.new_password, seen)
    await forget_account(ctx, PASSWORD, str(session.user_id))
    return {"object": "user", "id": str(session.user_id), "sessions_ended": ended}


@router.post(
    "/v1/auth/organization",
    response_model=None,
    responses=answers(200, Switched, 403, 404),
    openapi_extra=takes(Switch),
)
async def switch(request: Request, response: Response, who: Someone, ctx: Ctx) -> dict[str, Any]:
    """From here on I work in another organization of mine. The cookie or token that asked is replaced."""
    session = _session(who)
    asked = await read(request, Switch)
    org_id = path_id(asked.organization_id, "organization_id")
    secret = await ctx.people.switch(session, org_id, visit(request))
    answer: dict[str, Any] = {"object": "organization", "id": str(org_id)}
    if session.kind == "browser":
        cookies.keep(response, request, ctx.settings.http.public_url, secret)
    else:
        answer["token"] = ctx.tokens.make(SignedIn(session.id, secret, session.user_id, org_id, "", ""))
    return answer


@router.get(
    "/v1/auth/events",
    response_model=None,
    responses=answers(200, AuthEventList, 403),
    openapi_extra={"parameters": [*PARAMETERS["parameters"], _SCOPE]},
)
async def list_events(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """What happened at the door in the last 90 days, the newest first."""
    asked, scope = page(request), request.query_params.get("scope", "organization")
    if scope not in ("organization", "installation"):
        raise invalid("The `scope` is organization or installation.")
    if scope == "installation":
        if who.session is None or not who.session.admin:
            raise ApiError(403, "invalid_permission", "Only an admin of the installation may see all of it.")
        async with ctx.store.people() as db:
            found = await people.page_of_all_events(db, asked)
    else:
        async with ctx.store.tenant(who.org_id) as db:
            found = await people.page_of_events(db, who.org_id, asked)
    return listed(found, _shown_event)


@router.get("/v1/users", response_model=None, responses=answers(200, MemberList), openapi_extra=PARAMETERS)
async def list_members(request: Request, who: FullAccess, ctx: Ctx) -> dict[str, Any]:
    """The members of this organization."""
    asked = page(request)
    async with ctx.store.tenant(who.org_id) as db:
        found = await people.page_of_members(db, who.org_id, asked)
    return listed(
        found,
        lambda row: {
            "id": str(row["id"]),
            "email": row["email"],
            "name": row["name"],
            "role": row["role"],
            "created_at": row["created_at"].isoformat(),
        },
    )


def _session(who: Principal) -> Session:
    assert who.session is not None  # Someone
    return who.session


def _shown_session(row: Any, current: Session) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "kind": row["kind"],
        "current": row["id"] == current.id,
        "organization_id": str(row["org_id"]),
        "ip": row["ip"],
        "user_agent": row["user_agent"],
        "created_at": row["created_at"].isoformat(),
        "used_at": row["used_at"].isoformat(),
        "expires_at": row["expires_at"].isoformat(),
    }


def _shown_event(row: Any) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "type": row["type"],
        "created_at": uuid7_time(row["id"]).isoformat(),
        "organization_id": row["org_id"] and str(row["org_id"]),
        "user_id": row["user_id"] and str(row["user_id"]),
        "email": row["email"],
        "ip": row["ip"],
        "user_agent": row["user_agent"],
        "detail": row["detail"],
    }
