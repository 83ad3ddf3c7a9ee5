"""POST /auth/register, /auth/login (a token, for programs); POST /v1/auth/session (a cookie, for browsers)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from api.body import read, takes
from api.context import Context, Ctx
from api.pages import path_id
from api.people import cookies
from api.people.admission import REGISTER, SIGN_IN, admit, admit_account, forget_account
from api.people.schemas import Register, SignedInUser, SignIn, TokenAndUser, answers
from api.people.visit import visit
from mailcore.flow.people import Kind, NewPerson, SignedIn
from mailcore.kit.errors import Invalid
from mailcore.mime.headers import check_text
from mailcore.smtp.address import folded, parse_address


async def keep_nowhere(response: Response) -> None:
    response.headers["cache-control"] = "no-store"  # RFC 6749 §5.1: answers that hold a token


router = APIRouter(tags=["people"], dependencies=[Depends(keep_nowhere)])
OPEN: dict[str, Any] = {"security": []}


@router.post(
    "/auth/register",
    status_code=201,
    response_model=None,
    responses=answers(201, TokenAndUser, 403, 409),
    openapi_extra=takes(Register) | OPEN,
)
async def register(request: Request, ctx: Ctx) -> dict[str, Any]:
    """The first user becomes the installation's admin and the owner of an organization; then registration closes by itself."""
    seen = visit(request)
    await admit(ctx, REGISTER, seen)
    await ctx.people.check_open()
    asked = await read(request, Register)
    for field, value in (("name", asked.name), ("team_name", asked.team_name)):
        check_text(value, field)
    new = NewPerson(_account(asked.email), asked.name, asked.password, asked.team_name)
    signed_in = await ctx.people.register(new, "token", seen)
    return {"token": ctx.tokens.make(signed_in), "user": _user(signed_in)}


@router.post(
    "/auth/login",
    response_model=None,
    responses=answers(200, TokenAndUser, 401, 403),
    openapi_extra=takes(SignIn) | OPEN,
)
async def login(request: Request, ctx: Ctx) -> dict[str, Any]:
    """A token for `Authorization: Bearer`, good for 24 hours on every route."""
    signed_in = await _sign_in(request, ctx, "token")
    return {"token": ctx.tokens.make(signed_in), "user": _user(signed_in)}


@router.post(
    "/v1/auth/session",
    status_code=201,
    response_model=None,
    responses=answers(201, SignedInUser, 401, 403),
    openapi_extra=takes(SignIn) | OPEN,
)
async def begin_session(request: Request, response: Response, ctx: Ctx) -> dict[str, Any]:
    """Signs a browser in: the answer sets the cookie. Needs `X-Requested-With`, as everything that a cookie does."""
    public_url = ctx.settings.http.public_url
    # also without a cookie: no other site may sign somebody in as somebody else
    cookies.check_own_page(request, public_url)
    signed_in = await _sign_in(request, ctx, "browser", over=cookies.secret_of(request, public_url))
    cookies.keep(response, request, public_url, signed_in.secret)
    return {"object": "session", "id": str(signed_in.session_id), "user": _user(signed_in)}


async def _sign_in(request: Request, ctx: Context, kind: Kind, *, over: str | None = None) -> SignedIn:
    seen = visit(request)
    await admit(ctx, SIGN_IN, seen)
    asked = await read(request, SignIn)
    org_id = None if asked.team_id is None else path_id(asked.team_id, "team_id")
    email = _as_stored(asked.email)
    await admit_account(ctx, SIGN_IN, email, seen)
    signed_in = await ctx.people.sign_in(email, asked.password, kind, seen, org_id=org_id, over=over)
    await forget_account(ctx, SIGN_IN, email)
    return signed_in


def _as_stored(email: str) -> str:
    """What is no address is nobody's, and takes as long to find out."""
    try:
        return _account(email.strip())
    except Invalid:
        return email.strip()[:320]


def _account(email: str) -> str:
    """By which somebody is known: two addresses that look the same are one (NFKC, A-labels); in ASCII it stays as it was written.
    Raises Invalid."""
    address = parse_address(email)
    return str(address) if address.local.isascii() else folded(address)


def _user(signed_in: SignedIn) -> dict[str, str]:
    return {"id": str(signed_in.user_id), "email": signed_in.email, "name": signed_in.name}
