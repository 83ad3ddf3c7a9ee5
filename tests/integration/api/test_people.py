"""Signing up and in: tokens, cookies, sessions, passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from api.people import cookies
from mailcore.flow.people import People
from mailcore.kit.ids import uuid7
from mailcore.kit.passwords import Passwords, matches

from .harness import MakeClient, assert_error, email

ANN = {"email": "Ann@Example.com", "password": "correct horse battery", "name": "Ann", "team_name": "Ann's"}
BOB = {"email": "bob@example.com", "password": "staple of the battery", "name": "Bob", "team_name": "Bob & sons"}
OURS = {"x-requested-with": "XMLHttpRequest"}
MANY = {"attempts": 100}

Browser = Callable[..., Awaitable[httpx.AsyncClient]]


def login_of(person: dict[str, str]) -> dict[str, str]:
    return {"email": person["email"], "password": person["password"]}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def people_of(api: httpx.AsyncClient) -> People:
    people: People = api._transport.app.ctx.people  # type: ignore[attr-defined]
    return people


async def events_of(admin: asyncpg.Connection) -> list[str]:
    return [row["type"] for row in await admin.fetch("SELECT type FROM auth_events ORDER BY id")]


@pytest.fixture
async def quick(make_client: MakeClient) -> MakeClient:
    """As make_client, with passwords that cost little."""

    async def make(**changed: Any) -> httpx.AsyncClient:
        api = await make_client(**changed)
        people_of(api).passwords = Passwords(cost=4)
        return api

    return make


@pytest.fixture
async def ann(quick: MakeClient) -> httpx.AsyncClient:
    """Of an installation where Ann, its admin, has registered; sends no credentials."""
    api = await quick(auth=MANY | {"registration_enabled": "true"})
    assert (await api.post("/auth/register", json=ANN)).status_code == 201
    return api


@pytest.fixture
async def browser(ann: httpx.AsyncClient) -> httpx.AsyncClient:
    """Ann's."""
    ann.headers.update(OURS)
    assert (await ann.post("/v1/auth/session", json=login_of(ANN))).status_code == 201
    return ann


# ---- registration ------------------------------------------------------------------------------------------------------


async def test_the_first_becomes_admin_and_owner_and_the_door_closes(
    make_client: MakeClient, admin: asyncpg.Connection
) -> None:
    api = await make_client()
    made = await api.post("/auth/register", json=ANN)
    assert (made.status_code, set(made.json())) == (201, {"token", "user"})
    assert made.json()["user"] == {"id": made.json()["user"]["id"], "email": "Ann@example.com", "name": "Ann"}
    assert made.headers["cache-control"] == "no-store"
    row = await admin.fetchrow(
        "SELECT u.admin, u.password_hash, m.role, o.name FROM users u JOIN memberships m ON m.user_id = u.id "
        "JOIN organizations o ON o.id = m.org_id"
    )
    assert (row["admin"], row["role"], row["name"]) == (True, "owner", "Ann's")
    assert row["password_hash"].startswith("$2b$12$")
    assert (await api.get("/emails", headers=bearer(made.json()["token"]))).status_code == 200
    assert_error(await api.post("/auth/register", json=BOB), 403, "validation_error", "closed")
    assert await admin.fetchval("SELECT count(*) FROM users") == 1
    assert sorted(await events_of(admin)) == ["registered", "signed_in"], "of the same millisecond, in either order"


async def test_twenty_at_once_make_one_admin(quick: MakeClient, admin: asyncpg.Connection) -> None:
    clients = [await quick(auth=MANY), await quick(auth=MANY)]
    answers = await asyncio.gather(
        *(clients[n % 2].post("/auth/register", json=BOB | {"email": f"p{n}@example.com"}) for n in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 19
    assert await admin.fetchval("SELECT count(*) FROM users") == 1
    assert await admin.fetchval("SELECT count(*) FROM users WHERE admin") == 1
    assert await admin.fetchval("SELECT count(*) FROM organizations") == 1


async def test_twenty_at_once_where_all_may_make_one_admin(quick: MakeClient, admin: asyncpg.Connection) -> None:
    api = await quick(auth=MANY | {"registration_enabled": "true"})
    answers = await asyncio.gather(
        *(api.post("/auth/register", json=BOB | {"email": f"p{n}@example.com"}) for n in range(20))
    )
    assert [answer.status_code for answer in answers] == [201] * 20
    assert await admin.fetchval("SELECT count(*) FROM users WHERE admin") == 1
    assert await admin.fetchval("SELECT count(*) FROM memberships WHERE role = 'owner'") == 20
    assert await admin.fetchval("SELECT count(DISTINCT org_id) FROM memberships") == 20


async def test_whoever_was_set_up_closes_the_door(make_client: MakeClient, postgres_server: Any, database: str) -> None:
    from mailcore.kit.seal import Keyring
    from postroom.setup import set_up

    made = await set_up(postgres_server.admin_url(database), Keyring([bytes(32)]))
    api = await make_client()
    assert_error(await api.post("/auth/register", json=ANN), 403, "validation_error", "closed")
    login = {"email": made.admin_email, "password": made.admin_password}
    assert (await api.post("/auth/login", json=login)).status_code == 200


@pytest.mark.parametrize(
    ("auth", "person", "status"),
    [
        ({"registration_enabled": "false"}, ANN, 403),
        ({"registration_enabled": False}, ANN, 403),
        ({"allowed_addresses": ["@example.com"]}, ANN, 201),
        ({"allowed_addresses": ["other.example", "ANN@example.com"]}, ANN, 201),
        ({"allowed_addresses": ["other.example"]}, ANN, 403),
        ({"allowed_addresses": ["example.com"]}, ANN | {"email": "a@sub.example.com"}, 403),
        ({"allowed_networks": ["127.0.0.0/8"]}, ANN, 201),
        ({"allowed_networks": ["192.0.2.0/24", "::/0"]}, ANN, 403),
    ],
)
async def test_who_may_register(quick: MakeClient, auth: dict[str, Any], person: Any, status: int) -> None:
    api = await quick(auth=auth)
    assert (await api.post("/auth/register", json=person)).status_code == status


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"password": "short"}, "at least 8"),
    ({"password": "x1y2z3é" * 12}, "at most 72 bytes"),
    ({"password": "Password123"}, "not common"),
    ({"password": "abcdefghij"}, "not common"),
    ({"password": "aaaaaaaaaaaa"}, "not common"),
    ({"password": "ANN@example.com"}, "your own name or address"),
    ({"password": 12345678}, "password"),
    ({"email": "nobody"}, "email"),
    ({"email": "a@b.c\r\nbcc: d@e.f"}, ""),
    ({"name": ""}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"team_name": "x" * 201}, "team_name"),
    ({"team_name": None}, "team_name"),
]


async def test_what_is_refused_at_registration(quick: MakeClient) -> None:
    api = await quick(auth=MANY)
    for changed, words in REFUSED:
        assert_error(await api.post("/auth/register", json=ANN | changed), 422, "validation_error", words)


async def test_bodies_that_are_none(quick: MakeClient) -> None:
    api = await quick(auth=MANY)
    api.headers.update(OURS)
    for path in ("/auth/register", "/auth/login", "/v1/auth/session"):
        for raw in (b"{", b"[" * 100_000, b'{"email":"\\ud800"}', b"\xff"):
            assert_error(await api.post(path, content=raw), 400, "validation_error")
        for raw in (
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"email":{},"password":[]}',
            b'{"email":"a\\u0000@b.c","password":"x"}',
        ):
            assert (await api.post(path, content=raw)).status_code == 422, (path, raw)


async def test_an_address_is_one_user_in_any_case_of_letters(ann: httpx.AsyncClient) -> None:
    again = await ann.post("/auth/register", json=BOB | {"email": "aNN@EXAMPLE.com"})
    assert_error(again, 409, "resource_locked", "already")


async def test_b11_two_addresses_that_look_the_same_are_one_account(ann: httpx.AsyncClient) -> None:
    finn = BOB | {"email": "finn@bücher.example"}
    assert (await ann.post("/auth/register", json=finn)).status_code == 201
    for twin in (
        "finn@xn--bcher-kva.example",
        "FINN@BÜCHER.example",
        "finn@bu\u0308cher.example",
        "\ufb01nn@bücher.example",
        "\uff46\uff49\uff4e\uff4e@bücher\u3002example",
        "finn@\u1d47ücher.example",
    ):
        again = await ann.post("/auth/register", json=finn | {"email": twin})
        assert_error(again, 409, "resource_locked", "already")
        assert (await ann.post("/auth/login", json=login_of(finn) | {"email": twin})).status_code == 200, twin
    other = finn | {"email": "fi\u0438n@bücher.example"}  # another alphabet is another name
    assert (await ann.post("/auth/register", json=other)).status_code == 201


# ---- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_token_opens_what_a_key_opens(
    ann: httpx.AsyncClient, make_domain: Any, admin: asyncpg.Connection
) -> None:
    answer = await ann.post("/auth/login", json=login_of(ANN) | {"email": "ANN@example.COM"})
    assert set(answer.json()) == {"token", "user"}
    assert set(answer.json()["user"]) == {"id", "email", "name"}
    token = bearer(answer.json()["token"])
    org = await admin.fetchval("SELECT id FROM organizations")
    await make_domain(org, "postroom.test")
    sent = await ann.post("/emails", json=email(), headers=token)
    assert sent.status_code == 200
    assert (await ann.get(f"/emails/{sent.json()['id']}", headers=token)).status_code == 200
    key = await ann.post("/api-keys", json={"name": "k"}, headers=token)
    assert key.status_code == 201
    assert (await ann.get("/emails", headers=bearer(key.json()["token"]))).status_code == 200
    me = (await ann.get("/v1/auth/me", headers=token)).json()
    assert (me["email"], me["admin"], me["organization"]["role"]) == ("Ann@example.com", True, "owner")
    assert_error(await ann.get("/v1/auth/me", headers=bearer(key.json()["token"])), 403, "invalid_permission")


WRONG_LOGINS = [
    {"email": ANN["email"], "password": "wrong horse battery"},
    {"email": ANN["email"], "password": ""},
    {"email": ANN["email"], "password": ANN["password"] + "x" * 100},
    {"email": "nobody@example.com", "password": ANN["password"]},
    {"email": "no address", "password": ANN["password"]},
    {"email": "", "password": ANN["password"]},
    {"email": "%", "password": ANN["password"]},
]


async def test_a_wrong_login_is_one_answer_and_one_hash(ann: httpx.AsyncClient) -> None:
    for login in WRONG_LOGINS:
        people = people_of(ann)
        before = people.passwords.hashes
        answer = await ann.post("/auth/login", json=login)
        assert answer.status_code == 401
        assert answer.json() == {
            "statusCode": 401,
            "name": "invalid_credentials",
            "message": "Address or password is wrong.",
        }
        assert people.passwords.hashes == before + 1, "known or not: the same work"


async def test_signing_out_kills_the_token_everywhere_at_once(ann: httpx.AsyncClient, quick: MakeClient) -> None:
    token = bearer((await ann.post("/auth/login", json=login_of(ANN))).json()["token"])
    other = bearer((await ann.post("/auth/login", json=login_of(ANN))).json()["token"])
    elsewhere = await quick()  # another process
    assert (await elsewhere.get("/emails", headers=token)).status_code == 200
    assert (await ann.delete("/v1/auth/session", headers=token)).json()["deleted"] is True
    assert_error(await elsewhere.get("/emails", headers=token), 401, "invalid_session")
    assert_error(await ann.post("/emails", json=email(), headers=token), 401, "invalid_session")
    assert (await elsewhere.get("/emails", headers=other)).status_code == 200
    assert (await ann.delete("/v1/auth/sessions", headers=other)).json()["deleted"] == 2  # with that of registering
    assert_error(await elsewhere.get("/emails", headers=other), 401, "invalid_session")


@pytest.mark.parametrize(
    "statement", ["DELETE FROM users", "DELETE FROM memberships", "UPDATE sessions SET expires_at = now()"]
)
async def test_who_is_gone_is_signed_out(ann: httpx.AsyncClient, admin: asyncpg.Connection, statement: str) -> None:
    token = bearer((await ann.post("/auth/login", json=login_of(ANN))).json()["token"])
    assert (await ann.get("/emails", headers=token)).status_code == 200
    await admin.execute(statement)
    assert_error(await ann.get("/emails", headers=token), 401, "invalid_session")


async def test_a_member_does_not_do_what_admins_do(ann: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    token = bearer((await ann.post("/auth/login", json=login_of(ANN))).json()["token"])
    for role, status in (("member", 403), ("admin", 201), ("owner", 201)):
        await admin.execute("UPDATE memberships SET role = $1", role)
        answer = await ann.post("/api-keys", json={"name": "k"}, headers=token)
        assert answer.status_code == status
    await admin.execute("UPDATE memberships SET role = 'member'")
    for method, path in (
        ("GET", "/api-keys"),
        ("DELETE", f"/api-keys/{uuid7()}"),
        ("GET", "/webhooks"),
        ("POST", "/domains"),
        ("POST", f"/domains/{uuid7()}/verify"),
        ("POST", f"/v1/domains/{uuid7()}/dkim-keys/rotate"),
        ("GET", "/v1/auth/events"),
        ("GET", "/api-keys/"),
    ):
        answer = await ann.request(method, path, headers=token)
        assert_error(answer, 403, "invalid_permission")
    for path in ("/emails", "/domains", "/v1/users", "/v1/auth/me"):
        assert (await ann.get(path, headers=token)).status_code == 200, path


FORGERIES: list[Callable[[str, str, str], str]] = [
    lambda head, body, signature: f"{head}.{body}.",
    lambda head, body, signature: f"{head}.{body}.{signature[::-1]}",
    lambda head, body, signature: f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.",
    lambda head, body, signature: f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.{signature}",
    lambda head, body, signature: f"{head}.{body}",
    lambda head, body, signature: f"{head}.{body}.{signature}.{signature}",
    lambda head, body, signature: f"{head}.{body[:-8]}.{signature}",
    lambda head, body, signature: f"{head}.{body}.{signature}\t.",
    lambda head, body, signature: "..",
    lambda head, body, signature: "eyJ" + "x" * 5_000,
]


async def test_a_forged_token_opens_nothing(ann: httpx.AsyncClient) -> None:
    """Those that the forgery starts from opens; all the others are in tests/unit/api/test_tokens.py."""
    for forge in FORGERIES:
        token = (await ann.post("/auth/login", json=login_of(ANN))).json()["token"]
        assert (await ann.get("/emails", headers=bearer(token))).status_code == 200
        forged = bearer(forge(*token.split(".")))
        for method, path in (("GET", "/emails"), ("POST", "/emails"), ("GET", "/v1/auth/me"), ("POST", "/api-keys")):
            assert_error(await ann.request(method, path, headers=forged, content=b"{"), 401, "invalid_session")


async def test_a_password_changed_while_it_is_compared_opens_nothing(
    ann: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    """The comparison takes a quarter of a second, without a transaction: what it found must still be so at its end."""
    people = people_of(ann)

    class Slow(Passwords):
        async def match(self, password: str, stored: str | None) -> bool:
            right = await super().match(password, stored)
            await admin.execute("UPDATE users SET password_hash = $1", await self.hash("another fine password"))
            await admin.execute("DELETE FROM sessions")
            return right

    people.passwords = Slow(cost=4)
    assert_error(await ann.post("/auth/login", json=login_of(ANN)), 401, "invalid_credentials")
    assert await admin.fetchval("SELECT count(*) FROM sessions") == 0


# ---- the cookie --------------------------------------------------------------------------------------------------------


async def test_a_browser_signs_in_and_out(ann: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    answer = await ann.post("/v1/auth/session", json=login_of(ANN), headers=OURS)
    assert answer.status_code == 201
    assert "token" not in answer.text
    (cookie,) = answer.headers.get_list("set-cookie")
    secret = ann.cookies[cookies.NAME]
    assert cookie.partition(";")[0] == f"{cookies.NAME}={secret}"
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert attributes == {"httponly", "samesite=lax", "path=/", "max-age=604800"}
    stored = await admin.fetch("SELECT * FROM sessions")
    assert not any(secret in str(value) or secret.encode() == value for row in stored for value in row.values())
    me = await ann.get("/v1/auth/me")
    assert me.json()["session"]["kind"] == "browser"
    assert me.headers.get_list("set-cookie"), "the end moves ahead with use"
    assert (await ann.get("/emails")).status_code == 200
    assert (await ann.delete("/v1/auth/session", headers=OURS)).json()["id"] == me.json()["session"]["id"]
    assert cookies.NAME not in ann.cookies
    ann.cookies.set(cookies.NAME, secret)
    assert_error(await ann.get("/v1/auth/me"), 401, "invalid_session")
    assert (await events_of(admin))[-1] == "signed_out"


@pytest.mark.parametrize(
    ("public_url", "base"), [("https://mail.example", "http://api.test"), ("http://x.test", "https://api.test")]
)
async def test_over_tls_the_cookie_is_this_hosts_alone(quick: MakeClient, public_url: str, base: str) -> None:
    api = await quick(http={"public_url": public_url})
    api.base_url = httpx.URL(base)
    await api.post("/auth/register", json=ANN)
    answer = await api.post("/v1/auth/session", json=login_of(ANN), headers=OURS)
    (cookie,) = answer.headers.get_list("set-cookie")
    assert cookie.startswith(cookies.SECURE_NAME + "=")
    parts = {part.strip().lower() for part in cookie.split(";")}
    assert {"secure", "httponly", "path=/", "samesite=lax"} <= parts
    assert not any(part.startswith("domain") for part in parts)
    secret = cookie.partition(";")[0].partition("=")[2]
    theirs = {"cookie": f"{cookies.NAME}={secret}"}  # as a subdomain could plant it
    api.cookies.clear()
    assert_error(await api.get("/v1/auth/me", headers=theirs), 401, "missing_api_key")
    ours = {"cookie": f"{cookies.SECURE_NAME}={secret}"}
    assert (await api.get("/v1/auth/me", headers=ours)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, False),
        ({"x-requested-with": ""}, False),
        (OURS, True),
        (OURS | {"sec-fetch-site": "same-origin", "origin": "http://api.test"}, True),
        (OURS | {"origin": "http://127.0.0.1:8080"}, True),  # HTTP__PUBLIC_URL
        (OURS | {"sec-fetch-site": "cross-site"}, False),
        (OURS | {"sec-fetch-site": "same-site"}, False),
        (OURS | {"origin": "https://evil.example"}, False),
        (OURS | {"origin": "http://api.test.evil.example"}, False),
        (OURS | {"origin": "null"}, False),
    ],
)
async def test_other_sites_change_nothing(browser: httpx.AsyncClient, headers: dict[str, str], passes: bool) -> None:
    del browser.headers["x-requested-with"]
    answers = [
        await browser.post("/api-keys", json={"name": "k"}, headers=headers),
        await browser.post("/emails", json=email(), headers=headers),
        await browser.post("/v1/auth/session", json=login_of(ANN), headers=headers),
        await browser.delete("/v1/auth/session", headers=headers),
    ]
    assert (await browser.get("/emails")).status_code == (401 if passes else 200)  # signed out, or nothing happened
    for answer in answers:
        if passes:
            assert answer.status_code in (200, 201) or "domain is not verified" in answer.text, answer.text
        else:
            assert_error(answer, 403, "csrf_refused")


async def test_a_key_beside_a_cookie_is_what_counts(browser: httpx.AsyncClient) -> None:
    assert_error(await browser.get("/emails", headers=bearer("re_wrong")), 400, "validation_error")
    assert_error(await browser.get("/emails", headers={"authorization": ""}), 401, "missing_api_key")


async def test_signing_in_takes_no_session_over(browser: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    planted = "a" * 43
    before = browser.cookies[cookies.NAME]
    await browser.post("/v1/auth/session", json=login_of(ANN), headers={"cookie": f"{cookies.NAME}={planted}"})
    after = browser.cookies[cookies.NAME]
    assert after not in (planted, before)
    await browser.post("/v1/auth/session", json=login_of(ANN))
    browser.cookies.clear()
    for old in (planted, after):
        gone = {"cookie": f"{cookies.NAME}={old}"}
        assert_error(await browser.get("/v1/auth/me", headers=gone), 401, "invalid_session")


async def test_a_cookie_is_no_token_and_a_token_no_cookie(browser: httpx.AsyncClient) -> None:
    import jwt

    token = (await browser.post("/auth/login", json=login_of(ANN))).json()["token"]
    jti = jwt.decode(token, options={"verify_signature": False})["jti"]
    browser.cookies.clear()
    assert_error(await browser.get("/emails", headers={"cookie": f"{cookies.NAME}={jti}"}), 401, "invalid_session")


async def test_use_moves_the_end_ahead_but_not_for_ever(browser: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    await admin.execute(
        "UPDATE sessions SET used_at = now() - interval '6 days', expires_at = now() + interval '1 day' "
        "WHERE kind = 'browser'"
    )
    assert (await browser.get("/emails")).status_code == 200
    assert await admin.fetchval(
        "SELECT expires_at > now() + interval '6 days 23 hours' FROM sessions WHERE kind = 'browser'"
    )
    await admin.execute("UPDATE sessions SET ends_at = now()")
    assert_error(await browser.get("/emails"), 401, "invalid_session")


# ---- sessions, password, organizations ------------------------------------------------------------------------------------


async def test_my_sessions(browser: httpx.AsyncClient, quick: MakeClient) -> None:
    browser.headers["user-agent"] = "Browser/1"
    await browser.post("/v1/auth/session", json=login_of(ANN))
    token = (await browser.post("/auth/login", json=login_of(ANN))).json()["token"]
    listed = (await browser.get("/v1/auth/sessions")).json()["data"]
    assert [(each["kind"], each["current"]) for each in listed] == [
        ("token", False),
        ("browser", True),
        ("token", False),  # that of registering
    ]
    assert (listed[1]["ip"], listed[1]["user_agent"]) == ("127.0.0.1", "Browser/1")
    assert (await browser.delete(f"/v1/auth/sessions/{listed[0]['id']}")).json()["deleted"] is True
    assert_error(await browser.get("/emails", headers=bearer(token)), 401, "invalid_session")
    theirs = (await browser.post("/auth/register", json=BOB)).json()["token"]
    theirs_id = (await browser.get("/v1/auth/sessions", headers=bearer(theirs))).json()["data"][0]["id"]
    for id_ in (theirs_id, str(uuid7())):
        assert_error(await browser.delete(f"/v1/auth/sessions/{id_}"), 404, "not_found", "Session not found")
    assert_error(await browser.delete("/v1/auth/sessions/x"), 422, "invalid_parameter")
    assert (await browser.get("/emails", headers=bearer(theirs))).status_code == 200


async def test_a_new_password_ends_the_other_sessions(browser: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    token = bearer((await browser.post("/auth/login", json=login_of(ANN))).json()["token"])
    new = "another fine password"
    path = "/v1/auth/password"
    wrong = await browser.post(path, json={"old_password": "wrong", "new_password": new})
    assert_error(wrong, 401, "invalid_credentials")
    weak = await browser.post(path, json={"old_password": ANN["password"], "new_password": "12345678"})
    assert_error(weak, 422, "validation_error", "not common")
    assert (await browser.get("/emails", headers=token)).status_code == 200
    done = await browser.post(path, json={"old_password": ANN["password"], "new_password": new})
    assert done.json()["sessions_ended"] == 2
    assert_error(await browser.get("/emails", headers=token), 401, "invalid_session")
    assert (await browser.get("/v1/auth/me")).status_code == 200
    assert (await browser.post("/auth/login", json=login_of(ANN))).status_code == 401
    assert (await browser.post("/auth/login", json=login_of(ANN) | {"password": new})).status_code == 200
    stored = await admin.fetchval("SELECT password_hash FROM users")
    assert matches(new, stored)
    assert not matches(new + "x", stored)
    assert {"password_refused", "password_changed"} <= set(await events_of(admin))


async def test_who_belongs_to_two_organizations_switches(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID, make_domain: Any
) -> None:
    user = (await browser.get("/v1/auth/me")).json()
    home = user["organization"]["id"]
    await make_domain(org, "second.test")
    refused = await browser.post("/v1/auth/organization", json={"organization_id": str(org)})
    assert_error(refused, 404, "not_found", "Organization not found")
    stranger = await browser.post("/auth/login", json=login_of(ANN) | {"team_id": str(org)})
    assert_error(stranger, 403, "validation_error", "no member")
    await admin.execute(
        "INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, 'member')", org, UUID(user["id"])
    )
    before = browser.cookies[cookies.NAME]
    assert (await browser.get("/domains")).json()["data"] == []
    switched = await browser.post("/v1/auth/organization", json={"organization_id": str(org)})
    assert switched.json() == {"object": "organization", "id": str(org)}
    assert browser.cookies[cookies.NAME] != before
    assert [each["name"] for each in (await browser.get("/domains")).json()["data"]] == ["second.test"]
    me = (await browser.get("/v1/auth/me")).json()
    assert (me["organization"]["id"], me["organization"]["role"]) == (str(org), "member")
    assert {each["id"] for each in me["organizations"]} == {home, str(org)}
    assert_error(await browser.get("/api-keys"), 403, "invalid_permission")
    # a token is exchanged
    token = (await browser.post("/auth/login", json=login_of(ANN))).json()["token"]
    moved = await browser.post("/v1/auth/organization", json={"organization_id": str(org)}, headers=bearer(token))
    assert_error(await browser.get("/domains", headers=bearer(token)), 401, "invalid_session")
    there = await browser.get("/domains", headers=bearer(moved.json()["token"]))
    assert [each["name"] for each in there.json()["data"]] == ["second.test"]
    asked = await browser.post("/auth/login", json=login_of(ANN) | {"team_id": str(org)})
    there = await browser.get("/domains", headers=bearer(asked.json()["token"]))
    assert [each["name"] for each in there.json()["data"]] == ["second.test"]


async def test_members_and_what_happened_at_the_door(
    browser: httpx.AsyncClient, admin: asyncpg.Connection, org: UUID, make_key: Any
) -> None:
    theirs = bearer((await browser.post("/auth/register", json=BOB)).json()["token"])
    (member,) = (await browser.get("/v1/users")).json()["data"]
    assert (member["email"], member["role"]) == ("Ann@example.com", "owner")
    await browser.post("/auth/login", json={"email": "nobody@example.com", "password": "x"})
    await browser.post("/auth/login", json=login_of(ANN) | {"password": "x"})
    events = (await browser.get("/v1/auth/events")).json()["data"]
    types = [each["type"] for each in events]
    assert types[:2] == ["sign_in_failed", "signed_in"]
    assert sorted(types[2:]) == ["registered", "signed_in"], "of the same millisecond, in either order"
    assert (events[0]["email"], events[0]["ip"]) == ("Ann@example.com", "127.0.0.1")
    others = (await browser.get("/v1/auth/events", headers=theirs)).json()["data"]
    assert sorted(each["type"] for each in others) == ["registered", "signed_in"]
    everything = (await browser.get("/v1/auth/events", params={"scope": "installation"})).json()["data"]
    assert len(everything) == len(events) + len(others) + 1
    refused = await browser.get("/v1/auth/events", params={"scope": "installation"}, headers=theirs)
    assert_error(refused, 403, "invalid_permission")
    assert_error(await browser.get("/v1/auth/events", params={"scope": "x"}), 422, "validation_error")
    key = bearer(await make_key(org))
    assert (await browser.get("/v1/users", headers=key)).json()["data"] == []
    assert (await browser.get("/v1/auth/events", headers=key)).json()["data"] == []
    refused = await browser.get("/v1/auth/events", params={"scope": "installation"}, headers=key)
    assert_error(refused, 403, "invalid_permission")
