"""The application: every router, one line each."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from api import errors, openapi
from api.accounts.routes import router as accounts
from api.api_keys.routes import router as api_keys
from api.arrivals.routes import router as arrivals
from api.bodies import Bodies
from api.caught.routes import router as caught
from api.context import Context
from api.domains.claims import router as domain_claims
from api.domains.routes import router as domains
from api.downloads import router as downloads
from api.edge import Edge
from api.emails.changing import router as emails_changing
from api.emails.files import router as emails_files
from api.emails.reading import router as emails_reading
from api.emails.routes import router as emails
from api.emails.routes import send, send_batch
from api.emails.shared import router as emails_shared
from api.health.routes import router as health
from api.lab.routes import router as lab
from api.messages.routes import router as messages
from api.oauth.routes import router as oauth
from api.people.door import router as people_door
from api.people.routes import router as people
from api.receiving.routes import router as receiving
from api.tracking.routes import router as tracking
from api.tracking.routes import router as tracking
from api.webhooks.history import router as webhook_events
from api.webhooks.routes import router as webhooks

ROUTERS: tuple[APIRouter, ...] = (
    receiving,  # before emails: `/emails/receiving` is no `/emails/{id}`
    emails,
    emails_reading,
    emails_changing,
    emails_files,
    emails_shared,
    domains,
    domain_claims,
    api_keys,
    health,
    caught,
    lab,
    accounts,
    messages,
    arrivals,
    downloads,
    webhooks,
    tracking,
    tracking,
    webhook_events,
    oauth,
    people_door,
    people,
)


class Api(FastAPI):
    """FastAPI behind edge: what edge answers or changes comes before FastAPI's own layers."""

    edge: Edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.edge(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = openapi.describe(self)
        return self.openapi_schema


def build(ctx: Context) -> Api:
    app = Api(
        title="Postroom",
        version="0.1.0",
        redirect_slashes=False,
        openapi_url="/openapi.json",
        docs_url=None,  # FastAPI's page takes its scripts from strangers
        redoc_url=None,
    )
    settings = ctx.settings
    app.state.ctx = ctx
    app.edge = Edge(
        super(Api, app).__call__,
        hot={("POST", "/emails"): send, ("POST", "/emails/batch"): send_batch},
        bodies=Bodies(settings.http.body_limit_bytes, settings.http.bodies_bytes),
        rate_limit=settings.rate_limit.requests_per_second,
    )
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
