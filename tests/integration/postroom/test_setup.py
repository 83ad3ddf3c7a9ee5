"""The set-up against a real database: what it makes, and that it makes nothing twice."""

import json
import stat
from base64 import b64decode
from pathlib import Path

import asyncpg
import dns.name
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key
from typer.testing import CliRunner

from mailcore.dns.lab import read_zone
from mailcore.kit.errors import Conflict, NotFound
from mailcore.kit.passwords import matches
from mailcore.kit.seal import Keyring
from mailcore.store.session import Store
from postroom.cli import app
from postroom.setup import LAB_DOMAIN, create_organization, new_token, set_limits, set_up, token_hash

TABLES = ("organizations", "users", "memberships", "api_keys", "domains", "dkim_keys")


@pytest.fixture
def url(postgres_server, database: str) -> str:  # type: ignore[no-untyped-def]
    return str(postgres_server.admin_url(database))


async def counts(admin: asyncpg.Connection) -> dict[str, int]:
    return {table: await admin.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES}


async def test_everything_is_made_once(url: str, keyring: Keyring, admin: asyncpg.Connection, tmp_path: Path) -> None:
    file, lab = tmp_path / "credentials.json", tmp_path / "dns"
    made = await set_up(url, keyring, credentials=file, lab=lab)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["api_key"] == made.api_key
    once = await counts(admin)
    assert once == dict(zip(TABLES, (1, 1, 1, 1, 1, 2), strict=True))
    zone = (lab / f"{LAB_DOMAIN}.json").read_bytes()
    assert await set_up(url, keyring, credentials=file, lab=lab) == made
    assert await counts(admin) == once
    assert (lab / f"{LAB_DOMAIN}.json").read_bytes() == zone


async def test_the_key_opens_and_the_password_fits(
    url: str, keyring: Keyring, admin: asyncpg.Connection, store: Store
) -> None:
    made = await set_up(url, keyring)
    assert made.api_key is not None
    assert made.admin_password is not None
    (row,) = await store.lookup("SELECT * FROM lookup_api_key($1)", token_hash(made.api_key))
    assert (str(row["org_id"]), row["permission"]) == (made.org_id, "full_access")
    stored = await admin.fetchval("SELECT password_hash FROM users")
    assert stored.startswith("$2b$12$")
    assert matches(made.admin_password, stored)
    texts = [str(value) for table in TABLES for row in await admin.fetch(f"SELECT * FROM {table}") for value in row]
    assert not [text for text in texts if made.api_key in text or made.admin_password in text]


async def test_the_lab_domain_is_verified_with_keys_that_its_zone_publishes(
    url: str, keyring: Keyring, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    await set_up(url, keyring, lab=tmp_path)
    assert await admin.fetchval("SELECT status FROM domains WHERE name = $1", LAB_DOMAIN) == "verified"
    zone = read_zone(tmp_path / f"{LAB_DOMAIN}.json")
    rows = await admin.fetch("SELECT selector, algorithm, private_sealed, public_txt FROM dkim_keys")
    for row in rows:
        name = dns.name.from_text(f"{row['selector']}._domainkey", zone.origin)
        published = zone.find(name, "TXT").records[0]
        assert published.value == row["public_txt"]
        key = load_der_private_key(keyring.open(row["private_sealed"], "dkim"), None)
        tags = dict(tag.split("=", 1) for tag in row["public_txt"].replace(" ", "").split(";"))
        if row["algorithm"] == "rsa-sha256":
            assert isinstance(key, RSAPrivateKey)
            assert (key.key_size, tags["k"]) == (2048, "rsa")
        else:
            assert isinstance(key, Ed25519PrivateKey)
            assert (len(b64decode(tags["p"])), tags["k"]) == (32, "ed25519")
    assert {row["algorithm"] for row in rows} == {"rsa-sha256", "ed25519-sha256"}


async def test_lost_credentials_are_made_anew_and_a_lost_zone_written_again(
    url: str, keyring: Keyring, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / "credentials.json"
    first = await set_up(url, keyring, credentials=file, lab=tmp_path)
    zone = (tmp_path / f"{LAB_DOMAIN}.json").read_bytes()
    file.unlink()
    (tmp_path / f"{LAB_DOMAIN}.json").unlink()
    await admin.execute("UPDATE domains SET status = 'failed'")
    second = await set_up(url, keyring, credentials=file, lab=tmp_path)
    assert second.org_id == first.org_id
    assert second.api_key not in (None, first.api_key)
    assert second.admin_password not in (None, first.admin_password)
    assert (tmp_path / f"{LAB_DOMAIN}.json").read_bytes() == zone
    assert await admin.fetchval("SELECT status FROM domains") == "verified"
    assert (await counts(admin))["dkim_keys"] == 2


async def test_a_second_run_without_a_file_changes_nothing(
    url: str, keyring: Keyring, admin: asyncpg.Connection
) -> None:
    await set_up(url, keyring)
    before = [await admin.fetch(f"SELECT * FROM {table}") for table in TABLES]
    again = await set_up(url, keyring)
    assert (again.api_key, again.admin_password) == (None, None)
    assert [await admin.fetch(f"SELECT * FROM {table}") for table in TABLES] == before


async def test_who_owns_the_tables_without_being_superuser_can_set_up(
    url: str, keyring: Keyring, admin: asyncpg.Connection, database: str
) -> None:
    owner = f"owner_{database}"
    await admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'owner-secret' NOSUPERUSER NOBYPASSRLS")
    try:
        for table in (*TABLES, "sessions", "auth_events"):
            await admin.execute(f"ALTER TABLE {table} OWNER TO {owner}")
        own_url = url.replace("postgres:super-secret", f"{owner}:owner-secret")
        made = await set_up(own_url, keyring)
        assert made.api_key is not None
        org_id, key = await create_organization(own_url, "Second")
        assert str(org_id) != made.org_id
        assert key != made.api_key
        with pytest.raises(Conflict):
            await create_organization(own_url, "second")
        forced = "SELECT count(*) FROM pg_class WHERE relname = ANY ($1) AND relforcerowsecurity"
        assert await admin.fetchval(forced, list(TABLES)) == len(TABLES)
    finally:
        await admin.execute(f"REASSIGN OWNED BY {owner} TO postgres")
        await admin.execute(f"DROP ROLE {owner}")


async def test_limits_of_an_organization(url: str, keyring: Keyring, admin: asyncpg.Connection) -> None:
    await set_up(url, keyring)
    org_id, _ = await create_organization(url, "Second")
    assert await set_limits(url, "second", {}) == {"daily": None, "monthly": None, "rate": None}
    await set_limits(url, str(org_id), {"daily": 100, "rate": 0})
    assert await set_limits(url, "Second", {"daily": None, "monthly": 5}) == {"daily": None, "monthly": 5, "rate": 0}
    others = await admin.fetch(
        "SELECT daily_quota, monthly_quota, rate_limit FROM organizations WHERE id <> $1", org_id
    )
    assert [tuple(row) for row in others] == [(None, None, None)]
    with pytest.raises(NotFound):
        await set_limits(url, "third", {"daily": 1})


@pytest.mark.parametrize("wrong", ["-1", "many", "1e3", "9" * 18, "²", ""])
def test_a_limit_is_a_number(wrong: str) -> None:
    done = CliRunner().invoke(app, ["org", "limits", "x", "--daily", wrong])
    assert done.exit_code == 1
    assert "--daily" in done.output


def test_tokens_have_their_form_and_differ() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    for token in tokens:
        head, name, secret = token.split("_")
        assert (head, len(name), len(secret)) == ("re", 8, 24)
        assert (name + secret).isalnum()
        assert (name + secret).isascii()
