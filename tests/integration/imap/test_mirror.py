"""The mirror against a real Dovecot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.dovecot import PASSWORD, Dovecot
from imap_sync.runner import Accounts
from mailcore.flow.lease import WorkerLease
from mailcore.flow.mirror import ImapDoor, Login
from mailcore.kit.clock import SystemClock
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.guard import Guard
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.store import accounts
from mailcore.store.session import Store
from mailcore.transport.imap.client import Security, SignInFailed

MAIL = (
    b"From: Ann <ann@x.test>\r\nTo: b@y.test, C <c@y.test>\r\nSubject: =?utf-8?q?H=C3=A9llo?= %d\r\n"
    b"Message-ID: <%d@x.test>\r\nDate: Fri, 20 Nov 2026 10:00:00 +0100\r\n\r\nbody\r\n"
)


@pytest.fixture
def door(certificates: Path) -> ImapDoor:
    return ImapDoor(
        Guard("imap", [ip_network("127.0.0.0/8")]), ports=(), ca_file=str(certificates / "ca.pem"), timeout=60
    )


@pytest.fixture
async def sync(store: Store, door: ImapDoor, keyring: Keyring) -> AsyncIterator[Accounts]:
    lease = WorkerLease(store, "imap_sync", lease_seconds=20)
    sync = Accounts(store, lease, door, keyring, SystemClock(), poll_seconds=3600, concurrency=4)
    yield sync
    await sync.drain()


async def _add(store: Store, keyring: Keyring, org: UUID, server: Dovecot, user: str, password: str = PASSWORD) -> UUID:
    account = uuid7()
    async with store.tenant(org) as db:
        await accounts.add(
            db,
            account_id=account,
            mailbox_id=uuid7(),
            org_id=org,
            host="127.0.0.1",
            port=server.imap,
            security="starttls",
            username=user,
            password_sealed=keyring.seal(password.encode(), "imap"),
        )
    return account


async def _round(sync: Accounts, admin: asyncpg.Connection) -> None:
    await admin.execute("UPDATE accounts SET due_at = now()")
    while await sync.work(None):
        pass
    await sync.drain()


async def _mirrored(admin: asyncpg.Connection) -> list[Any]:
    return await admin.fetch("SELECT * FROM messages ORDER BY uid")


async def test_inbox_mail_is_mirrored_once_and_stays_unseen(
    store: Store,
    sync: Accounts,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    for n in range(3):
        dovecot_server.append(user, MAIL % (n, n))
    await _add(store, keyring, org, dovecot_server, user)
    await _round(sync, admin)
    rows = await _mirrored(admin)
    assert [row["subject"] for row in rows] == ["Héllo 0", "Héllo 1", "Héllo 2"]
    assert rows[0]["message_id"] == "<0@x.test>"
    assert rows[0]["from_"] == "Ann <ann@x.test>"
    assert rows[0]["to_"] == ["b@y.test", "C <c@y.test>"]
    assert rows[0]["date"].isoformat() == "2026-11-20T09:00:00+00:00"
    assert rows[0]["size"] == len(MAIL % (0, 0))
    before = [row["id"] for row in rows]
    dovecot_server.append(user, MAIL % (3, 3))
    await _round(sync, admin)
    await _round(sync, admin)
    rows = await _mirrored(admin)
    assert [row["id"] for row in rows][:3] == before and len(rows) == 4
    assert all(b"\\Seen" not in flags for flags in dovecot_server.flags(user))
    account = await admin.fetchrow("SELECT * FROM accounts")
    assert (account["state"], account["error"], account["worker"], account["failures"]) == ("ok", None, None, 0)


async def test_more_than_one_window_and_a_crash_between_two(
    store: Store,
    sync: Accounts,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    for n in range(230):
        dovecot_server.append(user, MAIL % (n, n))
    await _add(store, keyring, org, dovecot_server, user)
    await _round(sync, admin)
    # as a worker leaves it that died after its second window
    await admin.execute("DELETE FROM messages WHERE uid > 150")
    await admin.execute("UPDATE folders SET watermark = 150")
    await admin.execute("UPDATE accounts SET worker = 999999999")
    await admin.execute(
        "INSERT INTO workers (id, service, host, pid, heartbeat_at) OVERRIDING SYSTEM VALUE "
        "VALUES (999999999, 'imap_sync', 'gone', 1, now() - interval '1 hour')"
    )
    await _round(sync, admin)
    assert [row["uid"] for row in await _mirrored(admin)] == list(range(1, 231))
    assert await admin.fetchval("SELECT watermark FROM folders") == 230


async def test_a_new_uidvalidity_starts_the_mirror_again(
    store: Store,
    sync: Accounts,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    dovecot_server.append(user, MAIL % (1, 1))
    dovecot_server.append(user, MAIL % (2, 2))
    await _add(store, keyring, org, dovecot_server, user)
    await _round(sync, admin)
    old = await admin.fetchval("SELECT uidvalidity FROM folders")
    dovecot_server.recreate_inbox(user)
    await asyncio.sleep(1.1)  # Dovecot's UIDVALIDITY is the second the mailbox was made in
    dovecot_server.append(user, MAIL % (7, 7))
    await _round(sync, admin)
    rows = await _mirrored(admin)
    assert [row["subject"] for row in rows] == ["Héllo 7"]
    assert await admin.fetchval("SELECT uidvalidity FROM folders") == rows[0]["uidvalidity"] != old
    threads = await admin.fetch("SELECT id FROM threads WHERE messages > 0")
    assert [row["id"] for row in threads] == [rows[0]["thread_id"]]
    assert await admin.fetchval("SELECT count(*) FROM message_words") == 1


async def test_a_wrong_password_says_so_and_is_tried_later(
    store: Store,
    sync: Accounts,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    await _add(store, keyring, org, dovecot_server, user, "wrong")
    await _round(sync, admin)
    account = await admin.fetchrow("SELECT *, due_at > now() + interval '10 seconds' AS later FROM accounts")
    assert account["state"] == "error" and "refused the user name or password" in account["error"]
    assert account["failures"] == 1 and account["worker"] is None and account["later"]
    assert "wrong" not in account["error"]


async def test_a_lost_lease_writes_nothing(
    store: Store,
    door: ImapDoor,
    keyring: Keyring,
    admin: asyncpg.Connection,
    org: UUID,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    from mailcore.flow.mirror import LeaseLost, mirror_inbox

    dovecot_server.append(user, MAIL % (1, 1))
    account_id = await _add(store, keyring, org, dovecot_server, user)
    async with store.worker() as db:
        [account] = await accounts.claim(db, 41, 1, 60)
    await admin.execute("UPDATE accounts SET worker = 42 WHERE id = $1", account_id)
    with pytest.raises(LeaseLost):
        await mirror_inbox(store, door, account, 41, PASSWORD, clock=SystemClock())
    assert await _mirrored(admin) == []
    async with store.worker() as db:
        assert not await accounts.settle(db, account_id, 41)


@pytest.mark.parametrize("security", [Security.TLS, Security.STARTTLS, Security.NONE])
async def test_logins_are_tried_over_every_kind_of_connection(
    door: ImapDoor, dovecot_server: Dovecot, security: Security
) -> None:
    port = dovecot_server.imaps if security is Security.TLS else dovecot_server.imap
    await door.try_login(Login("127.0.0.1", port, security, "user0@mail.test", PASSWORD))
    with pytest.raises(SignInFailed, match="refused the user name or password"):
        await door.try_login(Login("127.0.0.1", port, security, "user0@mail.test", "no"))


async def test_a_certificate_of_nobody_we_know_is_refused(dovecot_server: Dovecot) -> None:
    door = ImapDoor(Guard("imap", [ip_network("127.0.0.0/8")]), ports=(), timeout=60)
    for port, security in ((dovecot_server.imaps, Security.TLS), (dovecot_server.imap, Security.STARTTLS)):
        with pytest.raises(Refused, match="certificate"):
            await door.try_login(Login("127.0.0.1", port, security, "user0@mail.test", PASSWORD))


async def test_private_addresses_and_other_ports_are_closed(dovecot_server: Dovecot) -> None:
    with pytest.raises(Refused):
        await ImapDoor(Guard("imap"), ports=()).try_login(
            Login("127.0.0.1", dovecot_server.imap, Security.NONE, "a", "b")
        )
    with pytest.raises(Refused, match="Port"):
        await ImapDoor(Guard("imap", [ip_network("127.0.0.0/8")])).try_login(
            Login("127.0.0.1", dovecot_server.imap, Security.NONE, "a", "b")
        )


async def test_nobody_there_is_said_with_host_and_port(door: ImapDoor) -> None:
    from peers import free_port

    port = free_port()
    with pytest.raises(Unavailable, match=f"127.0.0.1 port {port}"):
        await door.try_login(Login("127.0.0.1", port, Security.NONE, "a", "b"))
