"""DKIM keys through the API: listed, made, brought along, rotated, retired; what is said of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import SigningKey

from .harness import MakeClient, MakeKey, assert_error

MakeOrg = Callable[[], Awaitable[UUID]]


@pytest.fixture
def keys(domain: UUID) -> str:
    return f"/v1/domains/{domain}/dkim-keys"


def pem(key: Any, encryption: Any = None) -> str:
    exported: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return exported.decode()


async def test_the_keys_of_a_domain(api: httpx.AsyncClient, keys: str) -> None:
    answer = await api.get(keys)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["object"], shown["has_more"], len(shown["data"])) == ("list", False, 2)
    by_algorithm = {each["algorithm"]: each for each in shown["data"]}
    key = by_algorithm["rsa-sha256"]
    assert (key["state"], key["origin"], key["bits"], key["advice"]) == ("active", "made", 2048, None)
    record = key["record"]
    assert (record["type"], record["name"], record["status"]) == ("TXT", "rsa._domainkey", "verified")
    assert record["fqdn"] == "rsa._domainkey.postroom.test"
    assert record["value"].startswith("v=DKIM1; k=rsa; p=")
    assert "private" not in answer.text
    assert (await api.get(f"{keys}/{key['id']}")).json() == key
    assert len((await api.get(keys, params={"limit": 1})).json()["data"]) == 1


async def test_rotate(api: httpx.AsyncClient, keys: str, domain: UUID, admin: asyncpg.Connection) -> None:
    answer = await api.post(f"{keys}/rotate")
    assert answer.status_code == 201, answer.text
    made = answer.json()["data"]
    assert [(each["algorithm"], each["state"], each["bits"]) for each in made] == [
        ("rsa-sha256", "pending", 2048),
        ("ed25519-sha256", "pending", 256),
    ]
    assert all(each["record"]["status"] == "not_started" and "Publish" in each["advice"] for each in made)
    assert (await api.post(f"{keys}/rotate", json={})).json()["data"] == made, "the same as long as they wait"
    only = await api.post(f"{keys}/rotate", json={"algorithms": ["ed25519-sha256"] * 2})
    assert only.json()["data"] == made[1:]
    got = (await api.get(f"/domains/{domain}")).json()
    assert got["status"] == "verified"
    dkim = [each for each in got["records"] if each["record"] == "DKIM"]
    assert [each["status"] for each in dkim] == ["verified", "verified", "pending", "pending"]
    assert [each["value"] for each in dkim[2:]] == [each["record"]["value"] for each in made]
    assert [(each["topic"], each["status"]) for each in got["advice"][:2]] == [("DKIM", "missing")] * 2
    assert await admin.fetchval("SELECT dkim_due_at > now() FROM domains")
    await api.post(f"/domains/{domain}/verify")
    assert await admin.fetchval("SELECT dkim_due_at <= now() FROM domains"), "a look now"


async def test_create_with_a_selector(api: httpx.AsyncClient, keys: str) -> None:
    answer = await api.post(keys, json={"selector": "Autumn.Mail", "algorithm": "ed25519-sha256"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["record"]["fqdn"] == "autumn.mail._domainkey.postroom.test"
    assert_error(await api.post(keys, json={"selector": "rsa"}), 409, "resource_locked", "choose another")
    waiting = await api.post(keys, json={"selector": "b", "algorithm": "ed25519-sha256"})
    assert_error(waiting, 409, "resource_locked", "autumn.mail", "retire it first")
    for selector in ("", "a b", "a..b", "-a", "a;b", "x" * 64, 7, "a" * 300):
        assert_error(await api.post(keys, json={"selector": selector}), 422, "validation_error", "`selector`")
    assert_error(await api.post(keys, json={"algorithm": "rsa-sha1"}), 422, "validation_error", "`algorithm`")


async def test_bring_your_own(api: httpx.AsyncClient, keys: str, admin: asyncpg.Connection, keyring: Keyring) -> None:
    own = ed25519.Ed25519PrivateKey.generate()
    answer = await api.post(f"{keys}/import", json={"selector": "own", "private_key": "Comment\n" + pem(own)})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["origin"], answer.json()["state"], answer.json()["bits"]) == ("imported", "pending", 256)
    sealed = await admin.fetchval("SELECT private_sealed FROM dkim_keys WHERE selector = 'own'")
    raw = own.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    assert raw not in sealed
    loaded = SigningKey.load("own", "postroom.test", keyring.open(sealed, "dkim"))
    assert loaded.public_txt == answer.json()["record"]["value"]
    await api._transport.app.ctx.logs.flush()  # type: ignore[attr-defined]
    rows = [str(dict(row)) for row in await admin.fetch("SELECT * FROM logs")]
    assert any("/dkim-keys/import" in row and "own" in row for row in rows), "the call is in the log"
    assert not any("PRIVATE KEY" in row for row in rows), "and the key is not"


RSA_1024 = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("private_key", "words"),
    [
        ("", "PEM form"),
        ("MIIEvQ", "PEM form"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "RSA or Ed25519"),
        (pem(RSA_1024, BestAvailableEncryption(b"secret")), "passphrase off"),
        (
            RSA_1024.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "public key. The private key is needed",
        ),
        (pem(RSA_1024) + " " * 17_000, "PEM form"),
        ("x" * 20_001, "`private_key`"),
    ],
)
async def test_what_is_no_key(api: httpx.AsyncClient, keys: str, private_key: str, words: str) -> None:
    answer = await api.post(f"{keys}/import", json={"selector": "own", "private_key": private_key})
    assert_error(answer, 422, "validation_error", words)


async def test_a_weak_key_is_taken_and_said_to_be_weak(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    fresh = (await api.post("/domains", json={"name": "weak.example"})).json()
    answer = await api.post(
        f"/v1/domains/{fresh['id']}/dkim-keys/import", json={"selector": "own", "private_key": pem(RSA_1024)}
    )
    assert (answer.status_code, answer.json()["state"], answer.json()["bits"]) == (201, "active", 1024)
    assert "1024 bits" in answer.json()["advice"]
    got = (await api.get(f"/domains/{fresh['id']}")).json()
    assert [each["name"] for each in got["records"] if each["record"] == "DKIM"] == [
        "own._domainkey.weak" if "weak" in got["records"][0]["name"] else "own._domainkey",
        got["records"][3]["name"],
    ]
    assert any(each["topic"] == "DKIM" and each["status"] == "warning" for each in got["advice"])


async def test_retire(api: httpx.AsyncClient, keys: str) -> None:
    by_algorithm = {each["algorithm"]: each["id"] for each in (await api.get(keys)).json()["data"]}
    refused = await api.post(f"{keys}/{by_algorithm['rsa-sha256']}/retire")
    assert_error(refused, 422, "validation_error", "Rotate first")
    path = f"{keys}/{by_algorithm['ed25519-sha256']}/retire"
    retiring = (await api.post(path)).json()
    assert (retiring["state"], retiring["retired_at"]) == ("retiring", None)
    assert retiring["keep_until"][:16] in retiring["advice"]
    retired = (await api.post(path, json={"at_once": True})).json()
    assert (retired["state"], retired["advice"]) == ("retired", None)
    assert retired["retired_at"] is not None


async def test_the_schedule(api: httpx.AsyncClient, keys: str, domain: UUID) -> None:
    path = f"{keys}/rotation"
    assert (await api.get(path)).json() == {
        "object": "dkim_rotation",
        "domain_id": str(domain),
        "every_days": None,
        "next_at": None,
    }
    set_ = (await api.patch(path, json={"every_days": 180})).json()
    assert set_["every_days"] == 180
    assert set_["next_at"] > "2026"
    assert (await api.patch(path, json={})).json() == set_, "what is not named stays"
    await api.post(f"{keys}/rotate")
    assert (await api.get(path)).json()["next_at"] is None, "the next keys wait already"
    assert (await api.patch(path, json={"every_days": None})).json()["every_days"] is None
    for days in (29, 1001, "90", 1.5, True):
        assert_error(await api.patch(path, json={"every_days": days}), 422, "validation_error", "`every_days`")


async def test_who_may(
    api: httpx.AsyncClient,
    keys: str,
    make_org: MakeOrg,
    make_key: MakeKey,
    make_client: MakeClient,
    org: UUID,
    domain: UUID,
) -> None:
    key_id = (await api.get(keys)).json()["data"][0]["id"]
    restricted = await make_client(await make_key(org, permission="sending_access", domain_id=domain))
    stranger = await make_client(await make_key(await make_org()))
    asks: list[tuple[str, str, Any]] = [
        ("GET", keys, None),
        ("POST", keys, {}),
        ("POST", f"{keys}/import", {"selector": "x", "private_key": pem(RSA_1024)}),
        ("POST", f"{keys}/rotate", {}),
        ("GET", f"{keys}/rotation", None),
        ("PATCH", f"{keys}/rotation", {"every_days": 90}),
        ("GET", f"{keys}/{key_id}", None),
        ("POST", f"{keys}/{key_id}/retire", {}),
    ]
    for method, path, body in asks:
        assert (await restricted.request(method, path, json=body)).status_code == 401
        theirs = await stranger.request(method, path, json=body)
        nobodys = await stranger.request(method, path.replace(str(domain), str(uuid4())), json=body)
        assert (theirs.status_code, theirs.content) == (404, nobodys.content), (method, path)
    assert len((await api.get(keys)).json()["data"]) == 2
