"""The application: every router, one line each."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api import errors, openapi
from api.accounts.routes import router as accounts
from api.addresses.routes import router as addresses
from api.api_keys.routes import router as api_keys
from api.arrivals.routes import router as arrivals
from api.auth import WHO, authenticate
from api.blocked_senders.routes import router as blocked_senders
from api.bodies import Bodies
from api.caught.routes import router as caught
from api.context import Context
from api.dmarc.routes import router as dmarc
from api.docs.routes import router as docs
from api.domains.claims import router as domain_claims
from api.domains.dkim import router as domain_dkim
from api.domains.receiving import router as domain_receiving
from api.domains.routes import router as domains
from api.downloads import router as downloads
from api.edge import Edge
from api.emails.changing import router as emails_changing
from api.emails.files import router as emails_files
from api.emails.metrics import router as emails_metrics
from api.emails.reading import router as emails_reading
from api.emails.routes import router as emails
from api.emails.routes import send, send_batch
from api.emails.shared import router as emails_shared
from api.errors import ApiError
from api.health.routes import router as health
from api.health.sending import router as health_sending
from api.lab.routes import router as lab
from api.logs.routes import router as logs
from api.mailboxes.routes import router as mailboxes
from api.messages.images import router as images
from api.messages.reports import router as message_reports
from api.messages.routes import router as messages
from api.messages.threads import router as threads
from api.oauth.routes import router as oauth
from api.people.door import router as people_door
from api.people.routes import router as people
from api.provider_events.routes import router as provider_events
from api.quarantine.routes import router as quarantine
from api.queue.routes import router as queue
from api.receiving.inbound import router as inbound
from api.receiving.routes import router as receiving
from api.reputation.routes import router as reputation
from api.routes.explain import router as routes_explained
from api.routes.routes import router as routes
from api.sites.routes import router as sites
from api.sources.pools import router as pools
from api.sources.routes import router as sources
from api.sources.warmups import router as warmups
from api.suppressions.routes import router as suppressions
from api.tls.domains import router as tls_domains
from api.tls.public import router as tls_public
from api.tls.reports import router as tls_reports
from api.trace.routes import router as trace
from api.tracking.routes import router as tracking
from api.usage.routes import router as usage
from api.ways.routes import installation as installation_ways
from api.ways.routes import own as ways
from api.ways.routing import installation as installation_routes
from api.ways.routing import own as routes_out
from api.webhooks.history import router as webhook_events
from api.webhooks.routes import router as webhooks
from mailcore.kit.errors import MailError

ROUTERS: tuple[APIRouter, ...] = (
    receiving,  # before emails: `/emails/receiving` is no `/emails/{id}`
    emails,
    emails_metrics,  # before emails_reading: `/emails/metrics` is no `/emails/{id}`
    emails_reading,
    emails_changing,
    emails_files,
    emails_shared,
    domains,
    domain_claims,
    domain_dkim,
    domain_receiving,
    api_keys,
    logs,
    health,
    docs,
    caught,
    lab,
    accounts,
    mailboxes,
    addresses,
    messages,
    message_reports,
    threads,
    images,
    arrivals,
    routes_explained,  # before routes: `/v1/routes/explain` is no `/v1/routes/{id}`
    routes,
    quarantine,
    blocked_senders,
    downloads,
    webhooks,
    tracking,
    webhook_events,
    inbound,
    oauth,
    suppressions,
    usage,
    ways,
    routes_out,
    installation_ways,
    installation_routes,
    provider_events,
    people_door,
    people,
    sites,
    queue,
    pools,
    sources,
    warmups,
    tls_public,
    tls_domains,
    tls_reports,
    dmarc,
    health_sending,
    reputation,
    trace,
)


class Api(FastAPI):
    """FastAPI behind edge: what edge answers or changes comes before FastAPI's own layers."""

    edge: Edge
    ctx: Context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.edge(scope, receive, send)

    def allowed(self, path: str) -> list[str]:
        """The methods that some route has for this path."""
        found: set[str] = set()
        for route in (*self.routes, *(each for router in ROUTERS for each in router.routes)):
            if isinstance(route, Route | APIRoute) and route.path_regex.match(path):
                found |= route.methods or set()
        if "GET" in found:
            found.add("HEAD")
        return sorted(found | {"OPTIONS"}) if found else []

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
    app.ctx = ctx
    app.edge = Edge(
        super(Api, app).__call__,
        hot={("POST", "/emails"): send, ("POST", "/emails/batch"): send_batch},
        bodies=Bodies(settings.http.body_limit_bytes, settings.http.bodies_bytes),
        limits=ctx.limits,
        logs=ctx.logs,
        log_bytes=settings.logs.body_bytes,
        allowed=app.allowed,
        https=settings.http.public_url.startswith("https:"),
    )
    errors.install(app)
    app.add_exception_handler(HTTPException, _no_such_route)
    for router in ROUTERS:
        app.include_router(router)
    return app


async def _no_such_route(request: Request, error: Exception) -> Response:
    """Who asks is found out all the same: the call counts, and stands in the log of the organization whose program is mistaken."""
    if WHO not in request.scope and "authorization" in request.headers:
        try:
            await authenticate(request)
        except (ApiError, MailError) as refused:
            if isinstance(refused, ApiError) and refused.status == 429:
                error = refused
    return errors.response(errors.from_exception(error))
