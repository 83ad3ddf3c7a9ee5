"""`postroom keys rotate`: whatever is sealed in the database is sealed anew, and no column can be forgotten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.kit.errors import Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.store import sealed
from mailcore.store.migrate import check_encryption_key
from mailcore.store.sealed import SEALED
from postroom.keys import rotate

OLD, NEW = b"o" * 32, b"n" * 32
NOT_SEALED = {
    # hashes
    "api_keys.token_hash",
    "arrival_keys.digest",
    "idempotency_keys.fingerprint",
    "provider_events.digest",
    "sessions.secret_hash",
    "tls_results.digest",
    "greylist.digest",
    "arrivals.sha256",
    "engagements.last_link",
    # mail, and what was answered
    "arrivals.raw",
    "emails.raw",
    "idempotency_keys.response",
}
"""Columns of bytes that hold no secret of ours. A new one is a line here, or, when it is sealed, in SEALED."""


@pytest.fixture
def url(postgres_server, database: str) -> str:  # type: ignore[no-untyped-def]
    return str(postgres_server.admin_url(database))


async def test_every_column_of_bytes_is_known(admin: asyncpg.Connection) -> None:
    rows = await admin.fetch(
        "SELECT c.relname || '.' || a.attname AS name, a.attname AS column "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 "
        "AND NOT a.attisdropped AND a.atttypid IN ('bytea'::regtype, 'bytea[]'::regtype)"
    )
    found = {row["name"] for row in rows}
    listed = {f"{each.table}.{each.column}" for each in SEALED}
    assert found - NOT_SEALED == listed, (
        "a new column of bytes: name it in SEALED (store/sealed.py) or in NOT_SEALED above"
    )
    named = {row["name"] for row in rows if row["column"].endswith("_sealed")}
    assert named <= listed, "what is called sealed must be"


async def filled(admin: asyncpg.Connection, org: UUID, domain: UUID, keyring: Keyring, rows: int = 1) -> None:
    """So many rows in each table, sealed with that keyring."""
    await admin.execute("UPDATE installation SET key_check = $1", keyring.seal(b"postroom", "check"))
    await admin.execute("DELETE FROM dkim_keys")
    for n in range(rows):
        values: list[tuple[str, dict[str, Any]]] = [
            (
                "dkim_keys",
                {"domain_id": domain, "selector": f"s{n}", "algorithm": "rsa-sha256", "public_txt": "v=DKIM1"}
                | {"private_sealed": keyring.seal(b"dkim %d" % n, "dkim"), "state": "retiring"},
            ),
            (
                "webhooks",
                {"endpoint": "https://example.com", "events": [], "secret_sealed": keyring.seal(b"secret", "webhook")}
                | {"old_secrets_sealed": [keyring.seal(b"old %d" % i, "webhook") for i in range(n % 3)]},
            ),
            (
                "accounts",
                {"host": "imap.example.com", "port": 993, "security": "tls", "username": f"u{n}"}
                | {"password_sealed": keyring.seal(b"password", "imap")},
            ),
            (
                "ways",
                {"name": "w", "kind": "resend", "secrets_sealed": keyring.seal(b'{"api_key": "re"}', "way")}
                | {"site_id": await admin.fetchval("INSERT INTO sites (key) VALUES ($1) RETURNING id", f"resend:{n}")},
            ),
        ]
        for table, given in values:
            row = {"id": uuid7(), "org_id": org, **given}
            places = ", ".join(f"${i}" for i in range(1, len(row) + 1))
            await admin.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())


async def secrets(admin: asyncpg.Connection, keyring: Keyring) -> dict[str, list[bytes]]:
    """All that there are, opened. Raises Refused."""
    opened: dict[str, list[bytes]] = {}
    for each in SEALED:
        values = await admin.fetch(f"SELECT {each.column} AS v FROM {each.table} ORDER BY {each.key}")
        flat = [v for row in values for v in (row["v"] if each.several else [row["v"]])]
        opened[f"{each.table}.{each.column}"] = [keyring.open(v, each.purpose) for v in flat]
    return opened


async def test_all_is_sealed_anew_and_means_the_same(
    url: str, admin: asyncpg.Connection, org: UUID, domain: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(admin, org, domain, Keyring([OLD]), rows=5)
    before = await secrets(admin, Keyring([OLD]))
    assert all(before.values()), "a column without a row: fill it above"
    monkeypatch.setattr(sealed, "BATCH", 2)
    done = await rotate(url, Keyring([NEW, OLD]))
    assert done.resealed.keys() == before.keys() and done.lost == {}
    assert done.resealed["ways.secrets_sealed"] == 5 and done.resealed["webhooks.old_secrets_sealed"] == 3
    assert await secrets(admin, Keyring([NEW])) == before, "the old key is needed no more"
    with pytest.raises(Refused):
        await secrets(admin, Keyring([OLD]))
    await check_encryption_key(url, Keyring([NEW]), claim=False)
    assert (await rotate(url, Keyring([NEW, OLD]))).resealed == {}
    forced = "SELECT count(*) FROM pg_class WHERE relname IN ('ways', 'accounts', 'webhooks', 'dkim_keys') AND relforcerowsecurity"
    assert await admin.fetchval(forced) == 4


async def test_what_no_key_opens_stays_and_is_told(
    url: str, admin: asyncpg.Connection, org: UUID, domain: UUID
) -> None:
    await filled(admin, org, domain, Keyring([OLD]))
    stranger = Keyring([b"s" * 32]).seal(b"{}", "way")
    await admin.execute("UPDATE ways SET secrets_sealed = $1", stranger)
    done = await rotate(url, Keyring([NEW, OLD]))
    assert done.lost == {"ways.secrets_sealed": 1} and "accounts.password_sealed" in done.resealed
    assert await admin.fetchval("SELECT secrets_sealed FROM ways") == stranger


async def test_an_owner_who_bypasses_no_policy_rotates_too(
    url: str, admin: asyncpg.Connection, org: UUID, domain: UUID, database: str
) -> None:
    """As at a managed database, where nobody is superuser."""
    await filled(admin, org, domain, Keyring([OLD]))
    await admin.execute("CREATE ROLE keys_owner LOGIN PASSWORD 'k'")
    try:
        await admin.execute("GRANT USAGE ON SCHEMA public TO keys_owner")
        for table in {each.table for each in SEALED}:
            await admin.execute(f"ALTER TABLE {table} OWNER TO keys_owner")
        host = url.rpartition("@")[2]
        done = await rotate(f"postgresql://keys_owner:k@{host}", Keyring([NEW, OLD]))
        assert done.resealed.keys() >= {"ways.secrets_sealed", "installation.key_check", "dkim_keys.private_sealed"}
    finally:
        await admin.execute("REASSIGN OWNED BY keys_owner TO CURRENT_USER")
        await admin.execute("DROP OWNED BY keys_owner")
        await admin.execute("DROP ROLE keys_owner")


async def test_the_command(url: str, admin: asyncpg.Connection, org: UUID, domain: UUID) -> None:
    await filled(admin, org, domain, Keyring([OLD]))
    command = [sys.executable, "-m", "postroom", "keys", "rotate", "--json"]
    env = {**os.environ, "POSTROOM_DATABASE__URL": url, "POSTROOM_ENCRYPTION_KEY": NEW.hex()}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert told.returncode == 1 and "POSTROOM_OLD_ENCRYPTION_KEYS" in told.stderr
    assert json.loads(told.stdout)["resealed"] == {}
    env["POSTROOM_OLD_ENCRYPTION_KEYS"] = OLD.hex()
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["resealed"]["ways.secrets_sealed"] == 1
    assert (await secrets(admin, Keyring([NEW])))["ways.secrets_sealed"] == [b'{"api_key": "re"}']
