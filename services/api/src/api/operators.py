"""Who may see and change what concerns the whole installation: sites, sources, ways out, verbs over all mail.

That is the installation's first organization, the one `postroom setup` made: its owner and its admins, and its API keys with full
access that are not limited to domains. Everybody else gets 403, whether what they ask for exists or not.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.auth import Principal, authenticate_fully
from api.context import Context, context
from api.errors import ApiError
from mailcore.store import organizations


async def authenticate_operator(request: HTTPConnection) -> Principal:
    """Raises as `authenticate_fully`, and 403 `invalid_permission`."""
    ctx: Context = context(request)
    principal = await authenticate_fully(request)
    limited = principal.domain_ids is not None or principal.role == "member"
    if limited or principal.org_id != await _first(ctx):
        raise ApiError(
            403,
            "invalid_permission",
            "This concerns the whole installation. Only the owner and the admins of its first organization, and that"
            " organization's API keys with full access, may do this.",
        )
    return principal


async def _first(ctx: Context) -> UUID | None:
    async with ctx.store.worker() as db:
        return await organizations.first(db)


Operator = Annotated[Principal, Depends(authenticate_operator)]
"""What a route about the installation takes: `async def list_(who: Operator, ctx: Ctx, …)`."""
