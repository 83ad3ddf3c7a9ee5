"""The first organization, its admin and its API key; in the lab also the domain postroom.test. Safe to run again.

1. one transaction as who migrates, under a lock: organization, admin, key, lab domain with DKIM keys: what is missing is made
2. the plain key and password go to the credentials file before the commit, so that they are never lost with it
3. the lab domain's zone file is written when the domain was made, or when the file is gone
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import string
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from mailcore.dns.lab import put_zone
from mailcore.kit.errors import Conflict, Invalid, NotFound
from mailcore.kit.ids import uuid7
from mailcore.kit.passwords import hashed, weakness
from mailcore.kit.seal import Keyring
from mailcore.store.people import LOCK

from .local.folder import write_private

FIRST_ORGANIZATION = "Postroom"
ADMIN_EMAIL = "admin@postroom.test"
LAB_DOMAIN = "postroom.test"
LAB_HOST = f"mail.{LAB_DOMAIN}"
RSA_SELECTOR = "postroom"
ED25519_SELECTOR = "postroom-ed25519"
_BASE62 = string.digits + string.ascii_letters
# tables that force their row-level security on their owner too
_FORCED = ("organizations", "users", "memberships", "api_keys", "domains", "dkim_keys", "sessions", "auth_events")


@dataclass(frozen=True, slots=True)
class Credentials:
    """None of `api_key` and `admin_password`: they exist, and only who made them knows them."""

    org_id: str
    api_key: str | None
    admin_email: str
    admin_password: str | None


def new_token() -> str:
    """An API key: `re_`, 8 letters that tell keys apart, `_`, 24 that are secret (143 random bits; 190 in all)."""
    return "re_" + "".join(map(_pick, range(8))) + "_" + "".join(map(_pick, range(24)))


def _pick(_: int) -> str:
    return secrets.choice(_BASE62)


def token_hash(token: str) -> bytes:
    """What is stored: SHA-256 suffices, because the token is not guessable."""
    return hashlib.sha256(token.encode()).digest()


async def set_up(
    url: str,
    keyring: Keyring,
    *,
    admin_email: str = ADMIN_EMAIL,
    credentials: Path | None = None,
    lab: Path | None = None,
) -> Credentials:
    """Makes what is missing. `url` is who migrates.

    With a `credentials` file the key and the password in it count; what is not in it, or no longer in the database, is made
    anew. Without one, an organization that exists keeps what it has. `lab` is the folder of zones: with it, postroom.test is
    a verified domain of the first organization.
    """
    known = _read(credentials)
    async with as_admin(url) as db:
        org_id = await db.fetchval("SELECT id FROM organizations ORDER BY created_at, id LIMIT 1")
        fresh = org_id is None
        if org_id is None:
            org_id = await _make_organization(db, FIRST_ORGANIZATION)
        renew = fresh or credentials is not None
        password = await _admin_user(db, org_id, admin_email, known, renew=renew)
        key = await _first_key(db, org_id, known, renew=renew)
        made = Credentials(str(org_id), key, admin_email, password)
        zone = await _lab_domain(db, org_id, keyring, lab) if lab else None
        if credentials is not None and made != known:
            write_private(credentials, (json.dumps(asdict(made), indent=2) + "\n").encode())
    if lab and zone:
        put_zone(lab, LAB_DOMAIN, zone)
    return made


async def create_organization(url: str, name: str) -> tuple[UUID, str]:
    """A further organization and its first API key. Raises Conflict when one of that name exists."""
    async with as_admin(url) as db:
        if await db.fetchval("SELECT true FROM organizations WHERE lower(name) = lower($1)", name):
            raise Conflict(f"There is an organization called {name} already. Choose another name.")
        org_id = await _make_organization(db, name)
        key = await _make_key(db, org_id)
    return org_id, key


LIMITS = {"daily": "daily_quota", "monthly": "monthly_quota", "rate": "rate_limit"}
"""What `set_limits` takes, and its column."""


async def set_limits(url: str, org: str, changes: dict[str, int | None]) -> dict[str, int | None]:
    """Sets what `changes` names (None: as the installation's settings say) and returns all limits. Raises NotFound, Conflict.

    `org` is an id or a name.
    """
    async with as_admin(url) as db:
        found = await db.fetch("SELECT id FROM organizations WHERE id::text = $1 OR lower(name) = lower($1)", org)
        if not found:
            raise NotFound(f"There is no organization {org}. Use its id, or its name as it was created.")
        if len(found) > 1:
            raise Conflict(f"There is more than one organization {org}. Use its id.")
        for name, number in changes.items():
            await db.execute(f"UPDATE organizations SET {LIMITS[name]} = $2 WHERE id = $1", found[0]["id"], number)
        row = await db.fetchrow(
            "SELECT daily_quota AS daily, monthly_quota AS monthly, rate_limit AS rate FROM organizations WHERE id = $1",
            found[0]["id"],
        )
    return dict(row)


async def set_password(url: str, email: str, password: str) -> int:
    """Of a user, by who runs the installation; how many sessions this ended. Raises Invalid, NotFound."""
    if problem := weakness(password, (email,)):
        raise Invalid(problem, field="password")
    async with as_admin(url) as db:
        user_id = await db.fetchval(
            "UPDATE users SET password_hash = $2 WHERE lower(email) = lower($1) RETURNING id", email, hashed(password)
        )
        if user_id is None:
            raise NotFound(f"There is no user {email}. Look at the spelling.")
        ended = await db.fetch("DELETE FROM sessions WHERE user_id = $1 RETURNING id", user_id)
        await db.execute(
            "INSERT INTO auth_events (id, user_id, type, email, detail) VALUES ($1, $2, 'password_set', $3, '{}')",
            *(uuid7(), user_id, email),
        )
    return len(ended)


@asynccontextmanager
async def as_admin(url: str, tables: Collection[str] = _FORCED) -> AsyncIterator[asyncpg.Connection]:
    """One transaction that may write for every tenant in these tables; one such at a time."""
    db = await asyncpg.connect(url)
    try:
        async with db.transaction():
            await db.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            bypasses = await db.fetchval("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            if not bypasses:  # who owns the tables may lift the force on itself, seen by nobody before the commit
                for table in tables:
                    await db.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
            yield db
            if not bypasses:
                for table in tables:
                    await db.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    finally:
        await db.close()


def _read(path: Path | None) -> Credentials | None:
    if path is None:
        return None
    try:
        return Credentials(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


async def _make_organization(db: asyncpg.Connection, name: str) -> UUID:
    org_id = uuid7()
    await db.execute("INSERT INTO organizations (id, name) VALUES ($1, $2)", org_id, name)
    return org_id


async def _admin_user(
    db: asyncpg.Connection, org_id: UUID, email: str, known: Credentials | None, *, renew: bool
) -> str | None:
    """The admin's password, where it is known: made now, or in the credentials. None: only the admin knows it."""
    row = await db.fetchrow("SELECT id FROM users WHERE lower(email) = lower($1)", email)
    if row is not None and known is not None and known.admin_email == email and known.admin_password:
        return known.admin_password
    if row is not None and not renew:
        return None
    password = secrets.token_urlsafe(15)
    if row is None:
        user_id = uuid7()
        await db.execute(
            "INSERT INTO users (id, email, name, password_hash, admin) VALUES ($1, $2, 'Admin', $3, true)",
            *(user_id, email, hashed(password)),
        )
        await db.execute(
            "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner') ON CONFLICT DO NOTHING",
            org_id,
            user_id,
        )
    else:
        await db.execute("UPDATE users SET password_hash = $2 WHERE id = $1", row["id"], hashed(password))
    return password


async def _first_key(db: asyncpg.Connection, org_id: UUID, known: Credentials | None, *, renew: bool) -> str | None:
    if known is not None and known.api_key:
        digest = token_hash(known.api_key)
        if await db.fetchval("SELECT true FROM api_keys WHERE token_hash = $1 AND org_id = $2", digest, org_id):
            return known.api_key
    return await _make_key(db, org_id) if renew else None


async def _make_key(db: asyncpg.Connection, org_id: UUID) -> str:
    token = new_token()
    await db.execute(
        "INSERT INTO api_keys (id, org_id, name, token_hash) VALUES ($1, $2, 'First key', $3)",
        *(uuid7(), org_id, token_hash(token)),
    )
    return token


async def _lab_domain(
    db: asyncpg.Connection, org_id: UUID, keyring: Keyring, lab: Path
) -> list[dict[str, str | int]] | None:
    """postroom.test, verified, with an RSA-2048 and an Ed25519 key. The zone's records, when its file has to be written."""
    row = await db.fetchrow(
        "SELECT id FROM domains WHERE name = $1 ORDER BY (status = 'verified') DESC, (org_id = $2) DESC LIMIT 1",
        *(LAB_DOMAIN, org_id),
    )
    if row is None:
        domain_id = uuid7()
        await db.execute(
            "INSERT INTO domains (id, org_id, name, status, verified_at, checked_at)"
            " VALUES ($1, $2, $3, 'verified', now(), now())",
            *(domain_id, org_id, LAB_DOMAIN),
        )
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        ed_key = ed25519.Ed25519PrivateKey.generate()
        # RFC 6376 §3.6.1 (SubjectPublicKeyInfo) and RFC 8463 §4 (the bare 32 bytes)
        rsa_public = rsa_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        ed_public = ed_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        for selector, algorithm, key, kind, public in (
            (RSA_SELECTOR, "rsa-sha256", rsa_key, "rsa", rsa_public),
            (ED25519_SELECTOR, "ed25519-sha256", ed_key, "ed25519", ed_public),
        ):
            private = key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            await db.execute(
                "INSERT INTO dkim_keys (id, org_id, domain_id, selector, algorithm, private_sealed, public_txt)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7)",
                *(uuid7(), org_id, domain_id, selector, algorithm, keyring.seal(private, "dkim")),
                f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}",
            )
    else:
        domain_id = row["id"]
        await db.execute("UPDATE domains SET status = 'verified' WHERE id = $1 AND status <> 'verified'", domain_id)
        if (lab / f"{LAB_DOMAIN}.json").exists():
            return None
    keys = await db.fetch(
        "SELECT selector, public_txt FROM dkim_keys WHERE domain_id = $1 ORDER BY selector", domain_id
    )
    return lab_records({key["selector"]: key["public_txt"] for key in keys})


def lab_records(dkim: dict[str, str]) -> list[dict[str, str | int]]:
    """The zone of postroom.test: `dkim` maps a selector to its TXT value."""
    spf = "v=spf1 ip4:127.0.0.1 -all"
    records: list[tuple[str, str, str]] = [
        ("@", "MX", f"10 {LAB_HOST}"),
        ("@", "TXT", spf),
        ("mail", "A", "127.0.0.1"),
        ("mail", "TXT", spf),
        ("send", "MX", f"10 {LAB_HOST}"),
        ("send", "TXT", spf),
        ("_dmarc", "TXT", f"v=DMARC1; p=reject; adkim=r; aspf=r; rua=mailto:dmarc@{LAB_DOMAIN}"),
        *((f"{selector}._domainkey", "TXT", value) for selector, value in dkim.items()),
    ]
    return [{"name": name, "type": kind, "value": value, "ttl": 60} for name, kind, value in records]
