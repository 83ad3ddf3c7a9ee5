"""What is wrong with this installation: each check says what it found, and in one line what to do when it fails.

Looks only: nothing is changed, but for a small blob that is written and deleted again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import asyncpg
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.exceptions import RedisError

from mailcore import blob
from mailcore.dns.resolver import DnsResolver, NoSuchDomain
from mailcore.flow import health
from mailcore.flow.domains import published
from mailcore.flow.health_checks import OK, UNKNOWN, WRONG
from mailcore.kit.errors import MailError
from mailcore.kit.settings import Base, HowMailLeaves
from mailcore.store import migrate
from mailcore.store.session import Store

MIN_SERVER = 160_000
_CHECK_SECONDS = 15.0


class Wrong(Exception):
    """The finding, and the advice after it."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool | None
    """None: nobody could tell."""
    text: str


class Http(BaseModel, extra="ignore"):
    """Of api's group, what is looked at."""

    public_url: str = ""


class Sending(Base):
    """What this command needs to know of outbound and of api."""

    outbound: HowMailLeaves = HowMailLeaves()
    http: Http = Http()


async def examine(settings: Base, processes: Mapping[str, int], *, name_to_ask: str) -> list[Finding]:
    """All findings, in the order in which they should be mended. `processes` counts the processes of each service."""
    service_url = settings.database.url
    migrate_url = settings.database.migrate_url or service_url
    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("encryption key", lambda: _key(settings)),
        ("database", lambda: _database(service_url)),
        ("migration", lambda: _migration(migrate_url)),
        ("database key", lambda: _database_key(settings, migrate_url)),
        ("roles", lambda: _roles(service_url)),
        ("connections", lambda: _connections(settings, processes)),
        ("redis", lambda: _redis(settings.redis.url)),
        ("blobs", lambda: _blobs(settings)),
        ("dns", lambda: _dns(settings, name_to_ask)),
    ]
    return [await _one(name, check) for name, check in checks]


async def examine_sending(settings: Sending) -> list[Finding]:
    """As outbound looks hourly (mailcore.flow.health), now and from this machine; nothing is kept. Each finding with its advice."""
    public = published(
        settings.domains,
        route=settings.outbound.route,
        source_ip=settings.outbound.source_ip,
        tracking_url=settings.tracking.url or settings.http.public_url,
    )
    resolver = DnsResolver(settings.dns.nameservers or None, timeout=settings.dns.timeout_seconds, cache_size=0)
    try:
        store = await Store.open(settings.database.url, pool_size=2, connect_seconds=5, name="doctor")
        try:
            scene = await health.scene(settings, public, store)
            found = await health.examine(scene, resolver) + await health.examine_store(store, health.now)
        finally:
            await store.close()
    except MailError as error:
        return [Finding("sending", None, error.public)]
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [
            Finding("sending", None, f"It cannot be looked at without the database: {error or type(error).__name__}.")
        ]
    ok = {OK: True, WRONG: False, UNKNOWN: None}
    return [
        Finding(
            each.check if each.check == "scanner" else f"sending: {each.check}",
            ok[each.status],
            f"{each.text} {each.advice}".rstrip(),
        )
        for each in found
    ]


async def _one(name: str, check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return Finding(name, True, await check())
    except Wrong as wrong:
        return Finding(name, False, str(wrong))
    except MailError as error:
        return Finding(name, False, error.public)
    except TimeoutError:
        return Finding(name, False, f"no answer within {_CHECK_SECONDS:.0f} s: see whether it is up and reachable.")
    except asyncpg.InsufficientPrivilegeError as error:
        return Finding(name, False, f"{error}: set POSTROOM_DATABASE__MIGRATE_URL to the login that may create tables.")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return Finding(
            name, False, f"{error or type(error).__name__}: start PostgreSQL or correct POSTROOM_DATABASE__URL."
        )


async def _key(settings: Base) -> str:
    settings.keyring()
    return "32 bytes"


async def _database(url: str) -> str:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        number = int(await connection.fetchval("SHOW server_version_num"))
        version = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    if number < MIN_SERVER:
        raise Wrong(f"PostgreSQL {version} is too old: upgrade to 16 or later.")
    return f"PostgreSQL {version}"


async def _migration(url: str) -> str:
    current, head = await migrate.current(url), migrate.head()
    if current != head:
        raise Wrong(
            f"the database is at revision {current or 'none'}, this version needs {head}: run postroom migrate."
        )
    return f"revision {head}"


async def _database_key(settings: Base, url: str) -> str:
    await migrate.check_encryption_key(url, settings.keyring(), claim=False)
    return "the key that this database was set up with"


async def _roles(url: str) -> str:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        login, mighty = await connection.fetchrow(
            "SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        missing = []
        for role in migrate.ROLES:
            known = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role)
            if not known or not await connection.fetchval("SELECT pg_has_role(current_user, $1, 'SET')", role):
                missing.append(role)
    finally:
        await connection.close()
    if missing:
        raise Wrong(f"the login {login} may not take the roles {', '.join(missing)}: run postroom migrate.")
    if mighty:
        raise Wrong(
            f"the login {login} bypasses row-level security, the second wall between organizations: name an ordinary login"
            " in POSTROOM_DATABASE__URL, and who may migrate in POSTROOM_DATABASE__MIGRATE_URL."
        )
    return f"{login} takes {', '.join(migrate.ROLES)}"


async def _connections(settings: Base, processes: Mapping[str, int]) -> str:
    wanted = sum(processes.values()) * settings.database.pool_size
    connection = await asyncpg.connect(settings.database.url, timeout=5)
    try:
        most = int(await connection.fetchval("SHOW max_connections"))
        kept = int(await connection.fetchval("SHOW superuser_reserved_connections"))
    finally:
        await connection.close()
    if wanted > most - kept:
        raise Wrong(
            f"{sum(processes.values())} processes may open {wanted} connections, the server has {most - kept}: raise"
            " max_connections, lower POSTROOM_DATABASE__POOL_SIZE, or put PgBouncer between."
        )
    return f"at most {wanted} of {most - kept}"


async def _redis(url: str) -> str:
    client = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        await client.ping()
        server = await client.info("server")
    except (RedisError, OSError) as error:
        raise Wrong(f"{error or type(error).__name__}: start Redis or correct POSTROOM_REDIS__URL.") from None
    finally:
        await client.aclose()
    return f"{server.get('server_name', 'redis')} {server.get('valkey_version', server.get('redis_version'))}"


async def _blobs(settings: Base) -> str:
    await blob.open(**dict(settings.blob)).check()
    return settings.blob.url


async def _dns(settings: Base, name: str) -> str:
    servers = settings.dns.nameservers
    resolver = DnsResolver(servers or None, timeout=settings.dns.timeout_seconds, cache_size=0)
    try:
        await resolver.mx(name)
    except NoSuchDomain:
        pass  # that is an answer too
    except MailError as error:
        raise Wrong(f"{error.public} Correct POSTROOM_DNS__NAMESERVERS or the machine's resolver.") from None
    return f"{', '.join(servers) or 'the resolver of the machine'} answers"
