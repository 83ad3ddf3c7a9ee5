"""Every error has the shape and the order of resend.md §1.2, §3, §4.2."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .harness import MakeClient, MakeKey, assert_error, email

BAD_ADDRESS = "needs to follow the `email@example.com` or `Name <email@example.com>` format"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic cmU6", "re_x"])
async def test_without_a_key(make_client: MakeClient, authorization: str | None) -> None:
    api = await make_client()
    headers = {} if authorization is None else {"authorization": authorization}
    for method, path in (("POST", "/emails"), ("GET", "/emails"), ("POST", "/domains"), ("POST", "/emails/batch")):
        # before anything else is looked at
        answer = await api.request(method, path, headers=headers, content=b"{broken")
        assert_error(answer, 401, "missing_api_key", "Missing API key")
        assert answer.headers["www-authenticate"] == 'realm=""'


@pytest.mark.parametrize("token", ["re_unknown0_000000000000000000000000", "x", "re_" + "y" * 5000, "\xff"])
async def test_with_an_unknown_key(make_client: MakeClient, token: str) -> None:
    api = await make_client()
    headers = [(b"authorization", b"Bearer " + token.encode("latin-1"))]
    assert_error(
        await api.post("/emails", headers=headers, content=b"{"), 400, "validation_error", "API key is invalid"
    )


async def test_a_sending_key_only_sends(org: UUID, domain: UUID, make_key: MakeKey, make_client: MakeClient) -> None:
    api = await make_client(await make_key(org, permission="sending_access"))
    assert (await api.post("/emails", json=email())).status_code == 200
    assert (await api.post("/emails/batch", json=[email()])).status_code == 200
    for method, path in (
        ("GET", "/emails"),
        ("GET", f"/emails/{domain}"),
        ("GET", "/domains"),
        ("POST", "/domains"),
        ("GET", "/api-keys"),
        ("POST", "/api-keys"),
        ("DELETE", f"/api-keys/{domain}"),
        ("GET", "/v1/caught"),
        ("PUT", "/v1/lab/dns/x.test"),
        ("GET", f"/v1/emails/{domain}/deliveries"),
    ):
        answer = await api.request(method, path, content=b"{broken")
        assert_error(answer, 401, "restricted_api_key", "restricted to only send emails")


async def test_a_deleted_key_is_dead_at_once(api: httpx.AsyncClient) -> None:
    made = (await api.post("/api-keys", json={"name": "k"})).json()
    theirs = {"authorization": f"Bearer {made['token']}"}
    assert (await api.get("/emails", headers=theirs)).status_code == 200
    assert (await api.delete(f"/api-keys/{made['id']}")).status_code == 200
    assert_error(await api.get("/emails", headers=theirs), 400, "validation_error", "API key is invalid")


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"nonsense",
        b'{"to": NaN}',
        b'{"to": 1e400}',
        b'{"subject": "\\ud800"}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"{'to': 1}",
        b'{"a": "\x00"}',
    ],
)
async def test_broken_json(api: httpx.AsyncClient, raw: bytes) -> None:
    for path in ("/emails", "/emails/batch", "/domains", "/api-keys"):
        assert_error(await api.post(path, content=raw), 400, "validation_error", "must be valid JSON")


@pytest.mark.parametrize("raw", [b"[]", b"5", b'"x"', b"true", b"null", b""])
async def test_json_that_is_no_object(api: httpx.AsyncClient, raw: bytes) -> None:
    answer = await api.post("/emails", content=raw)
    assert answer.status_code == 422
    assert set(answer.json()) == {"statusCode", "name", "message"}
    answer = await api.post("/domains", content=raw)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        ({}, "missing_required_field", "Missing `to` field."),
        ({"to": None}, "missing_required_field", "Missing `to` field."),
        ({"to": []}, "missing_required_field", "Missing `to` field."),
        ({"to": "x"}, "validation_error", "Missing `html` or `text` field."),
        ({"to": "x", "html": "", "text": None}, "validation_error", "Missing `html` or `text` field."),
        ({"to": "x", "html": "h"}, "missing_required_field", "Missing `subject` field."),
        ({"to": "x", "html": "h", "subject": "s"}, "missing_required_field", "Missing `from` field."),
        ({"to": "x", "html": "h", "subject": "s", "from": "f"}, "validation_error", "Invalid `to` field."),
        ({"to": "a@b.c", "html": "h", "subject": "s", "from": "f"}, "validation_error", "Invalid `from` field."),
    ],
)
async def test_order_of_complaints(api: httpx.AsyncClient, body: dict[str, Any], name: str, message: str) -> None:
    assert_error(await api.post("/emails", json=body), 422, name, message)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"to": 5}, BAD_ADDRESS),
        ({"to": [5]}, BAD_ADDRESS),
        ({"to": {"a": "b"}}, BAD_ADDRESS),
        ({"to": "a@b.example, c@d.example"}, BAD_ADDRESS),
        ({"to": "a@"}, BAD_ADDRESS),
        ({"to": "@b.example"}, BAD_ADDRESS),
        ({"to": "a@[127.0.0.1]"}, BAD_ADDRESS),
        ({"to": "a@b..example"}, BAD_ADDRESS),
        ({"to": ""}, BAD_ADDRESS),
        ({"to": "a" * 100 + "@b.example"}, BAD_ADDRESS),
        ({"cc": "nobody"}, "`cc`"),
        ({"bcc": ["a@b.example", "nobody"]}, "`bcc`"),
        ({"reply_to": "nobody"}, "`reply_to`"),
        ({"from": ["a@postroom.test"]}, "`from`"),
        ({"from": "Acme hello@postroom.test"}, "`from`"),
        ({"to": [f"u{n}@b.example" for n in range(51)]}, "at most 50"),
        ({"cc": [f"u{n}@b.example" for n in range(51)]}, "at most 50"),
        ({"subject": 5}, "`subject`"),
        ({"subject": ["x"]}, "`subject`"),
        ({"html": 5}, "`html`"),
        ({"html": ["x"]}, "`html`"),
        ({"text": {"x": 1}}, "`text`"),
        ({"headers": []}, "`headers`"),
        ({"headers": {"X-A": 5}}, "`headers`"),
        ({"headers": "X-A: b"}, "`headers`"),
        ({"headers": {"X A": "b"}}, "header name"),
        ({"headers": {"": "b"}}, "header name"),
        ({"headers": {"From": "x@y.z"}}, "set by the platform"),
        ({"headers": {"Content-Type": "text/x"}}, "set by the platform"),
        ({"tags": {"a": "b"}}, "`tags`"),
        ({"tags": ["a"]}, "`tags`"),
        ({"tags": [{"value": "x"}]}, "`tags`"),
        ({"tags": [{"name": "a b", "value": "x"}]}, "`tags`"),
        ({"tags": [{"name": "a", "value": "ü"}]}, "`tags`"),
        ({"tags": [{"name": "a", "value": 5}]}, "`tags`"),
        ({"tags": [{"name": "a" * 257, "value": "x"}]}, "`tags`"),
        ({"tags": [{"name": "a", "value": "b"}] * 76}, "75"),
        ({"attachments": {}}, "`attachments`"),
        ({"attachments": ["x"]}, "`attachments`"),
        ({"template": {"id": "x"}}, "Templates are not available"),
        ({"topic_id": "x"}, "Topics are not available"),
    ],
)
async def test_wrong_fields(
    api: httpx.AsyncClient, admin: asyncpg.Connection, changed: dict[str, Any], words: str
) -> None:
    assert_error(await api.post("/emails", json=email(**changed)), 422, "validation_error", words)
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0


async def test_the_from_domain_must_be_verified_exactly(api: httpx.AsyncClient, admin: asyncpg.Connection) -> None:
    for address in ("a@sub.postroom.test", "a@test", "a@notpostroom.test", "a@postroom.test.example"):
        answer = await api.post("/emails", json=email(**{"from": address}))
        assert answer.status_code in (403, 422), address
        assert answer.json()["name"] == "validation_error"
    assert (await api.post("/emails", json=email(**{"from": "a@POSTROOM.Test"}))).status_code == 200
    await admin.execute("UPDATE domains SET status = 'failed'")
    assert await admin.fetchval("SELECT count(*) FROM emails") == 1


INJECTIONS = [
    *("\r", "\n", "\r\n", "\r\nBcc: evil@example.com", "\0", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f"),
    *("\x7f", "\x85", "\u2028", "\u2029", "%0d%0aBcc: evil@example.com", "%0A", "\x9f", "\x01"),
]
PLACES = [
    *("from", "from_name", "to", "to_name", "cc", "bcc", "reply_to", "reply_to_name", "subject"),
    *("header_name", "header_value", "tag_name", "tag_value", "filename", "content_id", "content_type"),
]


def _injected(place: str, evil: str) -> dict[str, Any]:
    address, name = f"a{evil}b@postroom.test", f"Name{evil}x <a@postroom.test>"
    attachment = {"filename": "a.txt", "content": "aGk=", "content_id": "cid", "content_type": "text/plain"}
    match place:
        case "from" | "to" | "cc" | "bcc" | "reply_to":
            return email(**{place: address})
        case "from_name" | "to_name" | "reply_to_name":
            return email(**{place.removesuffix("_name"): name})
        case "subject":
            return email(subject=f"Hello{evil}there")
        case "header_name":
            return email(headers={f"X-A{evil}b": "c"})
        case "header_value":
            return email(headers={"X-A": f"b{evil}c"})
        case "tag_name":
            return email(tags=[{"name": f"a{evil}b", "value": "c"}])
        case "tag_value":
            return email(tags=[{"name": "a", "value": f"b{evil}c"}])
        case _:
            return email(attachments=[{**attachment, place: f"a{evil}b"}])


@pytest.mark.parametrize("place", PLACES)
async def test_no_control_character_gets_in(api: httpx.AsyncClient, admin: asyncpg.Connection, place: str) -> None:
    """reliability.md C1: 422 for each, in the middle, at the start and at the end; and nothing is stored."""
    for evil in INJECTIONS:
        answer = await api.post("/emails", json=_injected(place, evil))
        assert answer.status_code == 422, (place, evil, answer.text)
        assert answer.json()["name"] in ("validation_error", "invalid_attachment"), answer.text
        batch = await api.post("/emails/batch", json=[email(), _injected(place, evil)])
        assert batch.status_code == 422, (place, evil, batch.text)
    for evil in ("\n", "\r\n", "\u2028", "\0"):
        for text in (f"{evil}a@postroom.test", f"a@postroom.test{evil}"):
            if place in ("from", "to", "cc", "bcc", "reply_to"):
                answer = await api.post("/emails", json=email(**{place: text}))
                assert answer.status_code == 422, (place, text)
        if place == "subject":
            for text in (f"{evil}Hello", f"Hello{evil}"):
                assert (await api.post("/emails", json=email(subject=text))).status_code == 422
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0


async def test_nul_in_a_body_is_refused(api: httpx.AsyncClient) -> None:
    for changed in ({"html": "a\0b"}, {"text": "\0"}, {"unknown": {"deep": ["\0"]}}):
        assert_error(await api.post("/emails", json=email(**changed)), 422, "validation_error", "NUL")
    assert_error(await api.post("/api-keys", json={"name": "\0"}), 422, "validation_error", "NUL")
    assert (await api.post("/emails", json=email(html="not a NUL: \\u0000"))).status_code == 200


async def test_line_breaks_in_a_body_are_text(api: httpx.AsyncClient) -> None:
    body = "a\r\nb\nc\td\u2028e %0d%0a\x85"
    id_ = (await api.post("/emails", json=email(html=body, text=body))).json()["id"]
    assert (await api.get(f"/emails/{id_}")).json()["text"] == body


async def test_routes_that_do_not_exist(api: httpx.AsyncClient) -> None:
    for method, path in (("GET", "/nope"), ("POST", "/v1/x"), ("GET", "/emails/x/y"), ("GET", "/%00")):
        assert_error(await api.request(method, path), 404, "not_found", "does not exist")
    for method, path in (("PUT", "/emails"), ("DELETE", "/emails"), ("PATCH", "/domains"), ("POST", "/health")):
        assert_error(await api.request(method, path), 405, "method_not_allowed", "Method is not allowed")
    for path in ("/emails/x", "/domains/x", "/emails/" + "0" * 36, "/v1/emails/x/deliveries"):
        assert_error(await api.get(path), 422, "invalid_parameter", "must be a valid UUID")


async def test_a_body_that_is_too_large(token: str, make_client: MakeClient) -> None:
    api = await make_client(token, http={"body_limit_bytes": 1_000_000})

    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b"x" * 100_000

    for path in ("/emails", "/domains"):
        assert_error(await api.post(path, content=b"x" * 1_000_001), 413, "validation_error", "larger than 1 MB")
        assert_error(await api.post(path, content=endless()), 413, "validation_error", "larger than 1 MB")
    assert (await api.post("/emails", json=email(html="x" * 900_000))).status_code == 200


async def test_a_message_that_is_too_large(api: httpx.AsyncClient) -> None:
    content = "QUFB" * 5_500_000
    answer = await api.post("/emails", json=email(attachments=[{"filename": "a", "content": content}] * 2))
    assert_error(answer, 422, "validation_error", "larger than 40 MB")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ADDRESSES = st.just("a@postroom.test") | st.emails() | st.text(max_size=40) | JSON
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "from": ADDRESSES,
        "to": ADDRESSES | st.lists(ADDRESSES, max_size=3),
        "cc": ADDRESSES,
        "subject": st.text(max_size=40) | JSON,
        "html": st.text() | JSON,
        "text": st.text() | JSON,
        "headers": st.dictionaries(st.text(max_size=12), st.text(max_size=12) | JSON, max_size=3) | JSON,
        "tags": st.lists(st.fixed_dictionaries({"name": JSON, "value": JSON}), max_size=2) | JSON,
        "scheduled_at": st.datetimes().map(str) | JSON,
        "attachments": st.lists(
            st.fixed_dictionaries(
                {
                    "filename": st.text(max_size=12) | JSON,
                    "content": st.text(max_size=12) | st.lists(st.integers()) | JSON,
                },
                optional={"content_id": JSON, "content_type": JSON, "path": JSON},
            ),
            max_size=2,
        )
        | JSON,
        "template": JSON,
        "topic_id": JSON,
    },
)


async def test_no_body_makes_a_500(api: httpx.AsyncClient) -> None:

    bodies: list[Any] = []

    @settings(
        max_examples=250,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(FIELDS | JSON)
    def collect(body: Any) -> None:
        bodies.append(body)

    await asyncio.to_thread(collect)

    def dumped(body: Any) -> bytes | None:
        try:
            return orjson.dumps(body)
        except TypeError:  # integers beyond 64 bits
            return None

    for body in bodies:
        raw = dumped(body)
        if raw is None:
            continue
        for path in ("/emails", "/emails/batch", "/domains", "/api-keys"):
            answer = await api.post(path, content=raw)
            assert answer.status_code in (200, 201, 403, 422), (path, raw, answer.text)
            if answer.status_code >= 400:
                assert set(answer.json()) == {"statusCode", "name", "message"}
    assert len(bodies) >= 200


async def test_a_revoked_key_is_dead_everywhere_in_five_seconds(
    api: httpx.AsyncClient, make_client: MakeClient, token: str
) -> None:
    made = (await api.post("/api-keys", json={"name": "k"})).json()
    elsewhere = await make_client(made["token"])  # another process, which has just seen the key
    assert (await elsewhere.get("/emails")).status_code == 200
    await api.delete(f"/api-keys/{made['id']}")
    deleted = asked = time.monotonic()
    while (await elsewhere.get("/emails")).status_code == 200:
        assert asked - deleted < 5, "of a call that began so late"
        await asyncio.sleep(0.1)
        asked = time.monotonic()
    assert_error(await elsewhere.get("/emails"), 400, "validation_error", "API key is invalid")
