"""/v1/accounts and /v1/messages, with a real Dovecot behind them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from fakes.dovecot import PASSWORD, Dovecot
from imap_sync.runner import Accounts
from mailcore.flow.lease import WorkerLease
from mailcore.flow.mirror import ImapDoor
from mailcore.kit.clock import SystemClock
from mailcore.kit.guard import Guard
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.store.session import Store

from .harness import MakeClient, MakeKey, assert_error

LOOPBACK = ["127.0.0.0/8"]


@pytest.fixture
def opened(certificates: Path) -> dict[str, Any]:
    """Settings of an installation that lets accounts name servers on loopback."""
    return {
        "network": {"allow": {"imap": LOOPBACK}},
        "imap": {"ports": [], "ca_file": str(certificates / "ca.pem"), "timeout_seconds": 60},
    }


@pytest.fixture
async def client(token: str, make_client: MakeClient, opened: dict[str, Any]) -> httpx.AsyncClient:
    return await make_client(token, **opened)


def account(server: Dovecot, user: str, **changed: Any) -> dict[str, Any]:
    asked = {"host": "127.0.0.1", "port": server.imaps, "security": "tls", "username": user, "password": PASSWORD}
    return asked | changed


async def test_an_account_is_tried_stored_mirrored_and_forgotten(
    client: httpx.AsyncClient,
    store: Store,
    keyring: Keyring,
    admin: asyncpg.Connection,
    certificates: Path,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    dovecot_server.append(user, b"From: ann@x.test\r\nSubject: Hi\r\n\r\nbody\r\n")
    made = (await client.post("/v1/accounts", json=account(dovecot_server, user))).raise_for_status()
    assert made.status_code == 201
    body = made.json()
    assert (body["object"], body["username"], body["state"], body["error"]) == ("account", user, "connecting", None)
    assert PASSWORD not in made.text
    sealed = await admin.fetchval("SELECT password_sealed FROM accounts")
    assert PASSWORD.encode() not in sealed and keyring.open(sealed, "imap") == PASSWORD.encode()

    door = ImapDoor(Guard("imap", [ip_network(LOOPBACK[0])]), ports=(), ca_file=str(certificates / "ca.pem"))
    lease = WorkerLease(store, "imap_sync")
    sync = Accounts(store, lease, door, keyring, SystemClock(), poll_seconds=60, concurrency=2)
    while await sync.work(None):
        pass
    await sync.drain()

    assert (await client.get(f"/v1/accounts/{body['id']}")).json()["state"] == "ok"
    [listed] = (await client.get("/v1/accounts")).json()["data"]
    assert listed["id"] == body["id"]
    [message] = (await client.get("/v1/messages", params={"account_id": body["id"]})).json()["data"]
    assert (message["from"], message["subject"], message["mailbox"]) == ("ann@x.test", "Hi", user)
    whole = (await client.get(f"/v1/messages/{message['id']}")).json()
    assert {name: whole[name] for name in message} == message
    assert (whole["html"], whole["text"], whole["raw"], whole["attachments"]) == (None, None, None, [])
    [found] = (await client.get("/v1/messages/search", params={"q": "from:ann@x.test subject:hi"})).json()["data"]
    assert found == message
    [thread] = (await client.get("/v1/threads", params={"mailbox_id": message["mailbox_id"]})).json()["data"]
    assert (thread["id"], thread["messages"]) == (message["thread_id"], 1)
    assert (await client.get("/v1/messages", params={"account_id": str(uuid7())})).json()["data"] == []

    gone = await client.delete(f"/v1/accounts/{body['id']}")
    assert gone.json() == {"object": "account", "id": body["id"], "deleted": True}
    assert (await client.get("/v1/messages")).json()["data"] == []
    assert_error(await client.get(f"/v1/accounts/{body['id']}"), 404, "not_found", "Account not found")


async def test_a_login_that_fails_stores_nothing_and_says_why(
    client: httpx.AsyncClient, admin: asyncpg.Connection, dovecot_server: Dovecot, user: str
) -> None:
    wrong = await client.post("/v1/accounts", json=account(dovecot_server, user, password="no"))
    assert_error(wrong, 422, "validation_error", "127.0.0.1 refused the user name or password")
    nobody = await client.post("/v1/accounts", json=account(dovecot_server, user, port=1, security="none"))
    assert_error(nobody, 422, "validation_error", "No connection to 127.0.0.1 port 1")
    assert await admin.fetchval("SELECT count(*) FROM accounts") == 0


async def test_the_same_login_twice_is_refused(client: httpx.AsyncClient, dovecot_server: Dovecot, user: str) -> None:
    (await client.post("/v1/accounts", json=account(dovecot_server, user))).raise_for_status()
    again = await client.post("/v1/accounts", json=account(dovecot_server, user))
    assert_error(again, 409, "resource_locked", "connected already")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.1", "[::1]", "169.254.169.254", "2130706433"])
async def test_private_servers_are_closed_unless_opened(token: str, make_client: MakeClient, host: str) -> None:
    client = await make_client(token)
    asked = {"host": host, "username": "a", "password": "b"}
    answer = await client.post("/v1/accounts", json=asked)
    assert_error(answer, 422, "validation_error")


async def test_only_mail_ports_may_be_named(
    token: str, make_client: MakeClient, opened: dict[str, Any], dovecot_server: Dovecot, user: str
) -> None:
    client = await make_client(token, **opened | {"imap": {}})
    answer = await client.post("/v1/accounts", json=account(dovecot_server, user))
    assert_error(answer, 422, "validation_error", "Port")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"username": "a\r\nb LOGOUT"}, "username"),
        ({"password": "a\0b"}, "NUL"),
        ({"password": "a\nb"}, "password"),
        ({"host": ""}, "host"),
        ({"port": 70_000}, "port"),
        ({"port": "993"}, "port"),
        ({"security": "maybe"}, "security"),
    ],
)
async def test_bad_input_names_the_field(
    client: httpx.AsyncClient, dovecot_server: Dovecot, changed: dict[str, Any], words: str
) -> None:
    answer = await client.post("/v1/accounts", json=account(dovecot_server, "user0@mail.test", **changed))
    assert_error(answer, 422, "validation_error", words)


async def test_another_organizations_account_does_not_exist(
    client: httpx.AsyncClient,
    make_client: MakeClient,
    make_key: MakeKey,
    make_org: Any,
    dovecot_server: Dovecot,
    user: str,
) -> None:
    made = (await client.post("/v1/accounts", json=account(dovecot_server, user))).json()
    other: UUID = await make_org()
    stranger = await make_client(await make_key(other))
    for method in ("GET", "DELETE"):
        theirs = await stranger.request(method, f"/v1/accounts/{made['id']}")
        unknown = await stranger.request(method, f"/v1/accounts/{uuid7()}")
        assert (theirs.status_code, theirs.json()) == (404, unknown.json())
    assert (await stranger.get("/v1/accounts")).json()["data"] == []
