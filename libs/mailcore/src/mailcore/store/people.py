"""Users, memberships, sessions and the record of what happened at the door.

Functions take the connection of `store.people()`, unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.store.pages import Page, Slice, fetch
from mailcore.store.session import Connection, Store

LOCK = 7_263_104_557_919
"""Advisory lock of whoever makes the first user: registration and `postroom setup`."""
SESSION_DAYS = 7
"""Of a browser, from its last use."""
SESSION_END_DAYS = 30
"""Of a browser, from signing in, whatever its use."""
TOKEN_HOURS = 24


@dataclass(frozen=True, slots=True)
class Login:
    user_id: UUID
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class Session:
    id: UUID
    kind: str
    """`browser` or `token`."""
    user_id: UUID
    org_id: UUID
    role: str
    admin: bool
    """Of the installation."""
    stale: bool
    """Its use has not been noted for an hour."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Where a request came from."""

    ip: str | None
    """An address in text; None where there is none (a Unix socket)."""
    user_agent: str | None
    """At most 300 characters, none of them a control character."""


@dataclass(frozen=True, slots=True)
class NewAuthEvent:
    type: str
    visit: Visit
    org_id: UUID | None = None
    user_id: UUID | None = None
    email: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


# ---- before the tenant is known ----------------------------------------------------------------------------------------


async def find_login(store: Store, email: str) -> Login | None:
    rows = await store.lookup("SELECT user_id, password_hash FROM lookup_login($1)", email)
    return Login(rows[0]["user_id"], rows[0]["password_hash"]) if rows else None


async def find_session(store: Store, secret_hash: bytes) -> Session | None:
    """One that is not over, of a user who is still a member. `secret_hash`: SHA-256."""
    rows = await store.lookup(
        "SELECT id, kind, user_id, org_id, role, admin, stale FROM lookup_session($1)", secret_hash
    )
    return Session(*rows[0].values()) if rows else None


# ---- users -------------------------------------------------------------------------------------------------------------


async def lock_registration(db: Connection) -> bool:
    """Until the end of the transaction nobody else registers. Whether there is any user."""
    await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
    return bool(await db.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def any_user(db: Connection) -> bool:
    return bool(await db.fetchval("SELECT EXISTS (SELECT FROM users)"))


async def add_user(
    db: Connection, *, email: str, name: str, password_hash: str, admin: bool, organization: str
) -> tuple[UUID, UUID] | None:
    """A user as owner of a new organization: ids of both; None when the address is taken (in any case of letters)."""
    user_id, org_id = uuid7(), uuid7()
    made = await db.fetchval(
        "INSERT INTO users (id, email, name, password_hash, admin) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (lower(email)) DO NOTHING RETURNING true",
        *(user_id, email, name, password_hash, admin),
    )
    if not made:
        return None
    await db.execute("INSERT INTO organizations (id, name) VALUES ($1, $2)", org_id, organization)
    await db.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')",
        *(org_id, user_id),
    )
    return user_id, org_id


async def user(db: Connection, user_id: UUID) -> Any | None:
    return await db.fetchrow(
        "SELECT id, email, name, admin, password_hash, created_at FROM users WHERE id = $1", user_id
    )


async def memberships(db: Connection, user_id: UUID) -> list[Any]:
    """Organizations of a user with the role there, the first joined first."""
    rows: list[Any] = await db.fetch(
        "SELECT m.org_id, o.name, m.role FROM memberships m JOIN organizations o ON o.id = m.org_id "
        "WHERE m.user_id = $1 ORDER BY m.created_at, m.org_id",
        user_id,
    )
    return rows


async def set_password(db: Connection, user_id: UUID, password_hash: str, *, was: str | None) -> bool:
    """False: the password is no longer `was`; somebody else changed it meanwhile."""
    return bool(
        await db.fetchval(
            "UPDATE users SET password_hash = $2 WHERE id = $1 AND password_hash IS NOT DISTINCT FROM $3 RETURNING true",
            *(user_id, password_hash, was),
        )
    )


async def page_of_members(db: Connection, org_id: UUID, page: Page) -> Slice:
    """As the tenant."""
    return await fetch(
        db,
        "SELECT u.id, u.email, u.name, m.role, m.created_at FROM memberships m JOIN users u ON u.id = m.user_id "
        "WHERE m.org_id = $1",
        [org_id],
        page,
        column="u.id",
    )


# ---- sessions ----------------------------------------------------------------------------------------------------------

_BEGIN = f"""
INSERT INTO sessions (id, org_id, user_id, kind, secret_hash, ip, user_agent, expires_at, ends_at)
SELECT $1, $2, u.id, $4, $5, $6::inet, $7,
       now() + CASE $4 WHEN 'browser' THEN interval '{SESSION_DAYS} days' ELSE interval '{TOKEN_HOURS} hours' END,
       now() + CASE $4 WHEN 'browser' THEN interval '{SESSION_END_DAYS} days' ELSE interval '{TOKEN_HOURS} hours' END
FROM users u WHERE u.id = $3 AND u.password_hash IS NOT DISTINCT FROM $8
FOR SHARE OF u
RETURNING id
"""


async def begin_session(
    db: Connection,
    *,
    org_id: UUID,
    user_id: UUID,
    kind: str,
    secret_hash: bytes,
    visit: Visit,
    password_hash: str | None,
) -> UUID | None:
    """None: the password that was checked is no longer the user's. Whoever changes it waits for us, or we for them."""
    id_: UUID | None = await db.fetchval(
        _BEGIN, uuid7(), org_id, user_id, kind, secret_hash, visit.ip, visit.user_agent, password_hash
    )
    return id_


async def note_use(db: Connection, session_id: UUID) -> None:
    """Of a browser also moves the end of its session ahead."""
    await db.execute(
        f"UPDATE sessions SET used_at = now(), expires_at = CASE kind WHEN 'browser' THEN now() + interval '{SESSION_DAYS} days' "
        "ELSE expires_at END WHERE id = $1",
        session_id,
    )


async def move_session(db: Connection, session_id: UUID, org_id: UUID, secret_hash: bytes) -> bool:
    """Into another organization of its user, under a new secret. False: the user is no member there."""
    return bool(
        await db.fetchval(
            "UPDATE sessions s SET org_id = $2, secret_hash = $3 WHERE s.id = $1 "
            "AND EXISTS (SELECT FROM memberships m WHERE m.org_id = $2 AND m.user_id = s.user_id) RETURNING true",
            *(session_id, org_id, secret_hash),
        )
    )


async def end_session(db: Connection, user_id: UUID, session_id: UUID) -> bool:
    return bool(
        await db.fetchval(
            "DELETE FROM sessions WHERE id = $1 AND user_id = $2 RETURNING true",
            *(session_id, user_id),
        )
    )


async def end_by_secret(db: Connection, secret_hash: bytes) -> None:
    await db.execute("DELETE FROM sessions WHERE secret_hash = $1", secret_hash)


async def end_sessions(db: Connection, user_id: UUID, *, but: UUID | None = None) -> int:
    """All sessions of a user, in every organization; how many there were."""
    rows = await db.fetch(
        "DELETE FROM sessions WHERE user_id = $1 AND id IS DISTINCT FROM $2 RETURNING id", user_id, but
    )
    return len(rows)


async def page_of_sessions(db: Connection, user_id: UUID, page: Page) -> Slice:
    return await fetch(
        db,
        "SELECT id, org_id, kind, host(ip) AS ip, user_agent, created_at, used_at, least(expires_at, ends_at) AS expires_at "
        "FROM sessions WHERE user_id = $1 AND expires_at > now() AND ends_at > now()",
        [user_id],
        page,
    )


# ---- what happened -----------------------------------------------------------------------------------------------------


async def note(db: Connection, event: NewAuthEvent) -> None:
    await db.execute(
        "INSERT INTO auth_events (id, org_id, user_id, type, email, ip, user_agent, detail) "
        "VALUES ($1, $2, $3, $4, $5, $6::inet, $7, $8)",
        uuid7(),
        event.org_id,
        event.user_id,
        event.type,
        None if event.email is None else event.email[:320],
        event.visit.ip,
        event.visit.user_agent,
        dict(event.detail),
    )


_EVENTS = "SELECT id, org_id, user_id, type, email, host(ip) AS ip, user_agent, detail FROM auth_events WHERE "


async def page_of_events(db: Connection, org_id: UUID, page: Page) -> Slice:
    """As the tenant: of one organization."""
    return await fetch(db, _EVENTS + "org_id = $1", [org_id], page)


async def page_of_all_events(db: Connection, page: Page) -> Slice:
    """Of the whole installation, those of nobody known included."""
    return await fetch(db, _EVENTS + "true", [], page)


async def has_signed_in_from(db: Connection, user_id: UUID, ip: str) -> bool:
    return bool(
        await db.fetchval(
            "SELECT EXISTS (SELECT FROM auth_events WHERE user_id = $1 AND ip = $2::inet AND type = 'signed_in')",
            *(user_id, ip),
        )
    )
