"""Before a password is looked at: how often an address or an account may try."""

from __future__ import annotations

import hashlib

from api.context import Context
from api.errors import ApiError
from mailcore.kit.addresses import client_network
from mailcore.store.people import NewAuthEvent, Visit

SIGN_IN, REGISTER, PASSWORD = "sign_in", "register", "password"


async def admit(ctx: Context, what: str, visit: Visit) -> None:
    """One more attempt from this address. Raises ApiError 429."""
    count, left = await ctx.attempts.take(f"{what}:from:{client_network(visit.ip)}")
    await _refuse_over(ctx, count, left, NewAuthEvent("limited", visit, detail={"what": what}))


async def admit_account(ctx: Context, what: str, account: str, visit: Visit) -> None:
    """One more attempt at this account, until one succeeds. Raises ApiError 429.

    Strangers cannot lock the owner out: from where the account has been signed in to before, only the address's limit counts.
    """
    count, left = await ctx.attempts.take(_of_account(what, account))
    if count > ctx.attempts.limit and not await ctx.people.knows_place(account, visit.ip):
        await _refuse_over(ctx, count, left, NewAuthEvent("limited", visit, email=account, detail={"what": what}))


async def forget_account(ctx: Context, what: str, account: str) -> None:
    await ctx.attempts.forget(_of_account(what, account))


def _of_account(what: str, account: str) -> str:
    # Redis need not know who they are
    return f"{what}:account:{hashlib.sha256(account.lower().encode('utf-8', 'replace')).hexdigest()[:32]}"


async def _refuse_over(ctx: Context, count: int, left: int, event: NewAuthEvent) -> None:
    limit = ctx.attempts.limit
    if count <= limit:
        return
    if count == limit + 1:  # the others of this window are as good as noted
        await ctx.people.note(event)
    raise ApiError(
        429,
        "rate_limit_exceeded",
        f"Too many attempts. Try again in {-(-left // 60)} minutes.",
        {"retry-after": str(left)},
    )
