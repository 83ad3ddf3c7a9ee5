"""How many requests may come: an organization's, those of an endpoint with a limit of its own, a stranger's.

Whoever finds out who asks calls `count` (api.auth); edge counts what nobody has counted as its client's, by address.
"""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, MutableMapping
from typing import Any, TypeAlias
from uuid import UUID

from api.errors import ApiError
from api.settings import RateLimit
from mailcore.kit.addresses import client_network
from mailcore.queue.rate import Rate, RateLimiter

Scope: TypeAlias = MutableMapping[str, Any]
Headers: TypeAlias = list[tuple[bytes, bytes]]

RATE = "postroom.rate"
"""Where the request's scope keeps its Rate."""
_PARAMETER = re.compile(r"\{[^}]*\}")
_UNCOUNTED = frozenset(("/health", "/healthz", "/readyz"))
"""Balancers ask often, and all from one address."""
_OF_MAIL = ("/track/", "/unsubscribe")
"""Where mails lead: a mailbox provider asks for all its readers from a few addresses."""


class Limits:
    def __init__(self, rate: RateLimiter, settings: RateLimit) -> None:
        self._rate = rate
        self._on = settings.requests_per_second > 0
        self._endpoints = {_PARAMETER.sub("{id}", name): limit for name, limit in settings.endpoints.items()}
        self._strangers = settings.unauthenticated if self._on else 0
        self._second = 0
        self._headers: dict[int, Headers] = {}
        """What does not change within a second, by limit."""
        self._untouched = Rate(settings.requests_per_second, settings.requests_per_second, 1, False)

    async def count(self, scope: Scope, org_id: UUID, own: int | None = None) -> None:
        """`own`: the organization's own limit; 0 is none. Raises ApiError 429."""
        if not self._on:
            return
        if self._endpoints:
            name = endpoint(scope)
            limit = self._endpoints.get(name)
            if limit is not None:
                # apart from all others: neither eats what the other may
                await self._take(scope, (org_id, name), limit)
                return
        if own != 0:
            await self._take(scope, org_id, own)

    async def count_stranger(self, scope: Scope) -> None:
        """Raises ApiError 429."""
        path: str = scope["path"]
        if self._strangers and path not in _UNCOUNTED and not path.startswith(_OF_MAIL):
            await self._take(scope, ("client", network(scope)), self._strangers)

    async def _take(self, scope: Scope, key: Hashable, limit: int | None) -> None:
        rate = self._rate.held(key, limit) or await self._rate.take(key, limit)
        scope[RATE] = rate
        if rate.exceeded:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"Too many requests. You can only make {rate.limit} requests per second. See rate limit response headers "
                "for more information. Or contact support to increase rate limit.",
                {"retry-after": str(rate.reset)},
            )

    def headers(self, scope: Scope) -> Headers:
        """Resend's four and MailIt's three; of what was not counted, an untouched limit."""
        if not self._on:
            return []
        rate: Rate = scope.get(RATE, self._untouched)
        now = int(time.time())
        if now != self._second or len(self._headers) > 1000:
            self._second = now
            self._headers.clear()
        fixed = self._headers.get(rate.limit)
        if fixed is None:
            limit = b"%d" % rate.limit
            fixed = self._headers[rate.limit] = [
                (b"ratelimit-limit", limit),
                (b"ratelimit-reset", b"1"),
                (b"ratelimit-policy", limit + b";w=1"),
                (b"x-ratelimit-limit", limit),
                (b"x-ratelimit-reset", b"%d" % (now + 1)),  # MailIt: seconds since 1970
            ]
        remaining = b"%d" % rate.remaining
        return [*fixed, (b"ratelimit-remaining", remaining), (b"x-ratelimit-remaining", remaining)]


def endpoint(scope: Scope) -> str:
    """`METHOD /path` with `{id}` where the route has a parameter."""
    route = scope.get("route")
    path = scope["path"] if route is None else _PARAMETER.sub("{id}", route.path)
    return f"{scope['method']} {path}"


def network(scope: Scope) -> str:
    """The client's address; of IPv6 its /64, which is one customer's (RFC 6177)."""
    client = scope.get("client")
    return client_network(client[0] if client else None)
