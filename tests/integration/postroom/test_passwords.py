"""`postroom user password`: who runs the installation lets somebody in again."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import UUID

import asyncpg
import pytest

from mailcore.kit.errors import Invalid, NotFound
from mailcore.kit.ids import uuid7
from mailcore.kit.passwords import matches
from postroom.setup import set_password


@pytest.fixture
def url(postgres_server, database: str) -> str:  # type: ignore[no-untyped-def]
    return str(postgres_server.admin_url(database))


@pytest.fixture
async def ann(admin: asyncpg.Connection, org: UUID) -> UUID:
    """A user with two sessions."""
    user = uuid7()
    await admin.execute("INSERT INTO users (id, email, password_hash) VALUES ($1, 'ann@example.com', 'x')", user)
    await admin.execute("INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'owner')", org, user)
    for secret in (b"a", b"b"):
        await admin.execute(
            "INSERT INTO sessions (id, org_id, user_id, kind, secret_hash, expires_at, ends_at) "
            "VALUES ($1, $2, $3, 'token', $4, now() + interval '1 day', now() + interval '1 day')",
            *(uuid7(), org, user, secret),
        )
    return user


async def test_a_password_set_by_hand_ends_every_session(url: str, admin: asyncpg.Connection, ann: UUID) -> None:
    assert await set_password(url, "ANN@example.com", "correct horse battery") == 2
    assert matches("correct horse battery", await admin.fetchval("SELECT password_hash FROM users"))
    assert await admin.fetchval("SELECT count(*) FROM sessions") == 0
    event = await admin.fetchrow("SELECT user_id, type FROM auth_events")
    assert (event["user_id"], event["type"]) == (ann, "password_set")
    with pytest.raises(NotFound):
        await set_password(url, "bob@example.com", "correct horse battery")
    with pytest.raises(Invalid, match="at least 8"):
        await set_password(url, "ann@example.com", "short")


async def test_the_command(url: str, admin: asyncpg.Connection, ann: UUID) -> None:
    command = [sys.executable, "-m", "postroom", "user", "password", "ann@example.com", "--json"]
    env = {"POSTROOM_DATABASE__URL": url, "POSTROOM_ENCRYPTION_KEY": "ab" * 32}
    done = subprocess.run(command, input="correct horse battery\n", env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"email": "ann@example.com", "sessions_ended": 2}
    assert matches("correct horse battery", await admin.fetchval("SELECT password_hash FROM users"))
    weak = subprocess.run(command, input="password1\n", env=env, capture_output=True, text=True, check=False)
    assert (weak.returncode, "not common" in weak.stderr) == (1, True)
    assert "correct horse" not in done.stdout + done.stderr + weak.stderr
