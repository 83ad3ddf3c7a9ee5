"""Whose ways: an organization's own, or the installation's, which its operator sets. The same routes stand under two paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection

from api.auth import authenticate_fully
from api.context import Context, context
from api.operators import authenticate_operator
from mailcore.store.session import Connection

INSTALLATION = "/v1/installation/"


@dataclass(frozen=True, slots=True)
class Scope:
    ctx: Context
    org_id: UUID | None
    """None: the installation's."""

    @asynccontextmanager
    async def db(self) -> AsyncIterator[Connection]:
        async with self.ctx.store.worker() if self.org_id is None else self.ctx.store.tenant(self.org_id) as db:
            yield db


async def scope_of(request: HTTPConnection) -> Scope:
    """Raises as `authenticate_fully` and `authenticate_operator`."""
    if request.scope["path"].startswith(INSTALLATION):
        await authenticate_operator(request)
        return Scope(context(request), None)
    who = await authenticate_fully(request)
    return Scope(context(request), who.org_id)


Of = Annotated[Scope, Depends(scope_of)]
