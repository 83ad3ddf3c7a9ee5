"""Signing up, signing in, and out again. Each is one transaction, and leaves a row in `auth_events`.

A secret is handed out once and kept as its SHA-256: the cookie of a browser, or the `jti` of a program's token. Ending a session
deletes its row, so that what was signed for it opens nothing from that moment on, in every process.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal, TypeAlias
from uuid import UUID

from mailcore.kit.addresses import parse_address
from mailcore.kit.errors import Conflict, Invalid, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.passwords import Passwords, weakness
from mailcore.store import people
from mailcore.store.people import Login, NewAuthEvent, Session, Visit
from mailcore.store.session import Connection, Store

Kind: TypeAlias = Literal["browser", "token"]


@dataclass(frozen=True, slots=True)
class SignedIn:
    session_id: UUID
    secret: str
    """What the cookie holds, or the token's `jti`."""
    user_id: UUID
    org_id: UUID
    email: str
    name: str


@dataclass(frozen=True, slots=True)
class NewPerson:
    email: str
    name: str
    password: str
    organization: str


@dataclass(frozen=True, slots=True)
class Registration:
    """Who may sign up."""

    mode: Literal["auto", "true", "false"] = "auto"
    """auto: the first user only. true: everybody. false: nobody, not even the first (`postroom setup` makes one)."""
    addresses: frozenset[str] = frozenset()
    """Addresses or domains, lower case; empty: any."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """From where; empty: from anywhere."""

    def allows(self, email: str, ip: str | None) -> bool:
        email = email.lower()
        if self.addresses and not {email, email.rpartition("@")[2]} & self.addresses:
            return False
        if not self.networks:
            return True
        address = parse_address(ip) if ip else None
        return any(address in network for network in self.networks if address and address.version == network.version)


class WrongLogin(Refused):
    """Address or password: which of them is nobody's business."""

    def __init__(self, public: str) -> None:
        super().__init__(public, name="invalid_credentials")


class RegistrationClosed(Refused):
    pass


def secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


class People:
    """One a process."""

    def __init__(self, store: Store, *, registration: Registration, passwords: Passwords | None = None) -> None:
        self._store = store
        self._registration = registration
        self.passwords = passwords or Passwords()

    def close(self) -> None:
        self.passwords.close()

    async def check_open(self) -> None:
        """Raises RegistrationClosed."""
        if self._registration.mode == "auto":
            async with self._store.people() as db:
                if await people.any_user(db):
                    raise _closed()
        elif self._registration.mode == "false":
            raise _closed()

    async def register(self, new: NewPerson, kind: Kind, visit: Visit) -> SignedIn:
        """A new user, signed in as the owner of a new organization. The first of all is the installation's admin.

        Raises RegistrationClosed, Conflict for an address that is taken, Invalid for a weak password, Unavailable.
        """
        await self.check_open()
        if not self._registration.allows(new.email, visit.ip):
            await self.note(NewAuthEvent("registration_refused", visit, email=new.email))
            raise _closed()
        if problem := weakness(new.password, (new.email, new.name)):
            raise Invalid(problem, field="password")
        password_hash = await self.passwords.hash(new.password)
        async with self._store.people() as db:
            # of twenty who come at once the second already finds a user
            first = not await people.lock_registration(db)
            if not first and self._registration.mode == "auto":
                raise _closed()
            made = await people.add_user(
                db,
                email=new.email,
                name=new.name,
                password_hash=password_hash,
                admin=first,
                organization=new.organization,
            )
            if made is None:
                raise Conflict("There is a user with this address already. Sign in, or use another address.")
            user_id, org_id = made
            await people.note(
                db, NewAuthEvent("registered", visit, org_id, user_id, new.email, {"admin": True} if first else {})
            )
            signed_in = await _begin(db, Login(user_id, password_hash), org_id, kind, visit)
        assert signed_in is not None
        return signed_in

    async def sign_in(
        self,
        email: str,
        password: str,
        kind: Kind,
        visit: Visit,
        *,
        org_id: UUID | None = None,
        over: str | None = None,
    ) -> SignedIn:
        """`org_id`: the organization to work in; None: the one joined first. `over`: the secret of a session that ends with this.

        The same work for a known and an unknown address. Raises WrongLogin, Refused, Unavailable.
        """
        login = await people.find_login(self._store, email)
        right = await self.passwords.match(password, login.password_hash if login else None)
        async with self._store.people() as db:
            signed_in = await _begin(db, login, org_id, kind, visit) if login is not None and right else None
            if signed_in is not None and over is not None:
                await people.end_by_secret(db, secret_hash(over))
            if signed_in is None:
                user_id = login.user_id if login else None
                home = await people.memberships(db, user_id or uuid7())
                await people.note(
                    db,
                    NewAuthEvent("sign_in_failed", visit, home[0]["org_id"] if home else None, user_id, email),
                )
        if signed_in is None:
            raise WrongLogin("Address or password is wrong.")
        return signed_in

    async def find(self, secret: str) -> Session | None:
        """Whose session this is; every hour of use is noted. Raises Unavailable."""
        session = await people.find_session(self._store, secret_hash(secret))
        if session is not None and session.stale:
            async with self._store.people() as db:
                await people.note_use(db, session.id)
        return session

    async def knows_place(self, email: str, ip: str | None) -> bool:
        """Whether this user has signed in from this address before."""
        login = await people.find_login(self._store, email)
        async with self._store.people() as db:
            return await people.has_signed_in_from(db, login.user_id if login else uuid7(), ip or "0.0.0.0")  # noqa: S104

    async def sign_out(self, session: Session, visit: Visit) -> None:
        async with self._store.people() as db:
            if await people.end_session(db, session.user_id, session.id):
                await people.note(db, NewAuthEvent("signed_out", visit, session.org_id, session.user_id))

    async def end(self, session: Session, other: UUID, visit: Visit) -> None:
        """Another session of the same user. Raises NotFound."""
        async with self._store.people() as db:
            if not await people.end_session(db, session.user_id, other):
                raise NotFound("Session not found")
            await people.note(
                db,
                NewAuthEvent("session_ended", visit, session.org_id, session.user_id, detail={"session": str(other)}),
            )

    async def end_all(self, session: Session, visit: Visit) -> int:
        """Every session of the user, in every organization, this one too; how many."""
        async with self._store.people() as db:
            ended = await people.end_sessions(db, session.user_id)
            await people.note(
                db, NewAuthEvent("sessions_ended", visit, session.org_id, session.user_id, detail={"sessions": ended})
            )
        return ended

    async def switch(self, session: Session, org_id: UUID, visit: Visit) -> str:
        """Another organization of the user, under a new secret: that. Raises NotFound when the user is no member there."""
        secret = _new_secret()
        async with self._store.people() as db:
            if not await people.move_session(db, session.id, org_id, secret_hash(secret)):
                raise NotFound("Organization not found")
            await people.note(db, NewAuthEvent("organization_switched", visit, org_id, session.user_id))
        return secret

    async def change_password(self, session: Session, old: str, new: str, visit: Visit) -> int:
        """Ends every other session of the user: how many. Raises WrongLogin, Invalid for a weak password, Unavailable."""
        async with self._store.people() as db:
            user = await people.user(db, session.user_id)
        if user is None or not await self.passwords.match(old, user["password_hash"]):
            async with self._store.people() as db:
                await people.note(db, NewAuthEvent("password_refused", visit, session.org_id, session.user_id))
            raise WrongLogin("The old password is wrong.")
        if problem := weakness(new, (user["email"], user["name"])):
            raise Invalid(problem, field="password")
        password_hash = await self.passwords.hash(new)
        async with self._store.people() as db:
            if not await people.set_password(db, session.user_id, password_hash, was=user["password_hash"]):
                raise WrongLogin("The password was changed from elsewhere meanwhile. Sign in again.")
            ended = await people.end_sessions(db, session.user_id, but=session.id)
            await people.note(
                db,
                NewAuthEvent(
                    "password_changed", visit, session.org_id, session.user_id, detail={"sessions_ended": ended}
                ),
            )
        return ended

    async def note(self, event: NewAuthEvent) -> None:
        async with self._store.people() as db:
            await people.note(db, event)


async def _begin(db: Connection, login: Login, org_id: UUID | None, kind: Kind, visit: Visit) -> SignedIn | None:
    """None: the password was changed since it was checked. Raises Refused where there is no organization to work in."""
    user: Any = await people.user(db, login.user_id)
    joined = await people.memberships(db, login.user_id)
    homes = [row["org_id"] for row in joined if org_id in (None, row["org_id"])]
    if not homes:
        raise Refused(
            "You are a member of no organization here. Ask an admin to invite you."
            if org_id is None
            else "You are no member of this organization."
        )
    secret = _new_secret()
    session_id = await people.begin_session(
        db,
        org_id=homes[0],
        user_id=login.user_id,
        kind=kind,
        secret_hash=secret_hash(secret),
        visit=visit,
        password_hash=login.password_hash,
    )
    if session_id is None:
        return None
    await people.note(db, NewAuthEvent("signed_in", visit, homes[0], login.user_id, user["email"], {"by": kind}))
    return SignedIn(session_id, secret, login.user_id, homes[0], user["email"], user["name"])


def _new_secret() -> str:
    return secrets.token_urlsafe(32)


def _closed() -> RegistrationClosed:
    return RegistrationClosed("Registration is closed. Ask an admin of this installation for an account.")
