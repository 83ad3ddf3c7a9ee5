"""Endpoints' names: asked of the name servers that DNS__NAMESERVERS gives, then of the system (hosts file, container network)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError
from mailcore.kit.guard import Resolve


def through(resolver: Resolver, system: Resolve) -> Resolve:
    """For kit.guard: IPv4 addresses first, then IPv6; those of the system where the name servers know none."""

    async def resolve(host: str) -> Sequence[str]:
        v4, v6 = await asyncio.gather(_asked(resolver.a, host), _asked(resolver.aaaa, host))
        return [*v4, *v6] or await system(host)

    return resolve


async def _asked(ask: Callable[[str], Awaitable[Records[str]]], host: str) -> Sequence[str]:
    try:
        return (await ask(host)).values
    except (NoSuchDomain, TemporaryDNSError):
        return ()
