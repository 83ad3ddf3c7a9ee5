"""Who may ask how often, and what every answer carries (resend.md §1, §3)."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY

from api.limits import network
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.queue.rate import RateLimiter

from .harness import MakeClient, MakeKey, assert_error, email

SECURITY = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "same-origin"}


def statuses(answers: list[httpx.Response]) -> dict[int, int]:
    found: dict[int, int] = {}
    for answer in answers:
        found[answer.status_code] = found.get(answer.status_code, 0) + 1
    return found


async def burst(
    client: httpx.AsyncClient, method: str, path: str, number: int, **options: Any
) -> tuple[dict[int, int], int]:
    """Statuses, and over how many windows the burst went."""
    began = int(time.time())
    answers = await asyncio.gather(*(client.request(method, path, **options) for _ in range(number)))
    return statuses(answers), int(time.time()) - began + 1


async def test_an_endpoint_with_its_own_limit_is_counted_apart(token: str, make_client: MakeClient) -> None:
    limits = {"requests_per_second": 4, "endpoints": "POST /emails=2, GET /emails/{id}=3"}
    api = await make_client(token, rate_limit=limits)
    await api.get("/domains")  # the key is known from here on
    found, windows = await burst(api, "POST", "/emails", 20, json=email())
    assert 1 <= found[200] <= 2 * windows
    found, windows = await burst(api, "GET", f"/emails/{uuid7()}", 20)
    assert 1 <= found[404] <= 3 * windows
    found, windows = await burst(api, "GET", "/domains", 20)
    assert 1 <= found[200] <= 4 * windows
    answer = await api.post("/emails", json=email())
    assert (answer.headers["ratelimit-limit"], answer.headers["ratelimit-policy"]) == ("2", "2;w=1")


@pytest.mark.parametrize("value", ["POST /emails", "POST /emails=0", "emails=5", "POST /emails=x"])
async def test_endpoints_that_make_no_sense(make_client: MakeClient, value: str) -> None:
    with pytest.raises(ValueError, match="endpoints"):
        await make_client(None, rate_limit={"endpoints": value})


async def test_an_organizations_own_limit_goes_before_the_setting(
    token: str, make_client: MakeClient, admin: asyncpg.Connection, org: UUID
) -> None:
    await admin.execute("UPDATE organizations SET rate_limit = 2 WHERE id = $1", org)
    api = await make_client(token, rate_limit={"requests_per_second": 1000})
    found, windows = await burst(api, "GET", "/domains", 20)
    assert 1 <= found[200] <= 2 * windows
    await admin.execute("UPDATE organizations SET rate_limit = 0 WHERE id = $1", org)
    free = await make_client(token, rate_limit={"requests_per_second": 1})
    assert (await burst(free, "GET", "/domains", 20))[0] == {200: 20}


async def test_strangers_are_limited_by_address(make_client: MakeClient, token: str) -> None:
    api = await make_client(None, rate_limit={"requests_per_second": 1000, "unauthenticated": 3})
    for path in ("/openapi.json", "/nowhere", "/emails"):
        found, windows = await burst(api, "GET", path, 20)
        assert found.get(429, 0) >= 20 - 3 * windows, path
    guessed, windows = await burst(api, "GET", "/emails", 20, headers={"authorization": "Bearer re_guessed0_0000"})
    assert set(guessed) <= {400, 429}
    assert guessed.get(429, 0) >= 20 - 3 * windows
    # who has a key is no stranger, and a balancer may look
    assert (await burst(api, "GET", "/domains", 20, headers={"authorization": f"Bearer {token}"}))[0] == {200: 20}
    assert (await burst(api, "GET", "/health", 20))[0] == {200: 20}


def test_a_customer_of_ipv6_is_one_network() -> None:
    def of(address: str | None) -> str:
        return network({"client": None if address is None else (address, 1)})

    assert of("2001:db8:1:2:3:4:5:6") == of("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert of("2001:db8:1:3::1") != of("2001:db8:1:2::1")
    assert (of("192.0.2.1"), of("::ffff:192.0.2.1")) == ("192.0.2.1", "192.0.2.1")
    assert of(None) == of("unix"), "what has no address is one client"


async def test_every_answer_carries_the_headers(token: str, make_client: MakeClient) -> None:
    public = {"public_url": "https://mail.example", "body_limit_bytes": 1_000_000}
    api = await make_client(token, rate_limit={"requests_per_second": 500}, http=public)
    asked = [
        await api.get("/domains"),
        await api.post("/emails", json=email()),
        await api.post("/emails", json={}),
        await api.post("/emails", content=b"{"),
        await api.post("/domains", content=b"x" * 1_000_001),
        await api.get("/nowhere"),
        await api.put("/emails"),
        await api.get("/health"),
        await api.get("/openapi.json"),
        await api.get("/docs"),
        await api.get("/domains", headers={"authorization": "Bearer re_unknown"}),
        await api.get("/domains", headers={"authorization": ""}),
        await api.get("/domains?a=%00"),
        await api.head("/domains"),
        await api.options("/emails"),
        await api.get("/v1/downloads/sent/x/y/z"),
    ]
    seen = set()
    for answer in asked:
        what = f"{answer.request.method} {answer.request.url.path} {answer.status_code}"
        assert answer.status_code != 500, what
        for name, value in SECURITY.items():
            assert name in answer.headers, what
            if name != "referrer-policy":
                assert answer.headers.get_list(name) == [value], what
        assert answer.headers["strict-transport-security"].startswith("max-age="), what
        for name in ("limit", "remaining", "reset"):
            assert answer.headers[f"ratelimit-{name}"].isdigit(), what
            assert answer.headers[f"x-ratelimit-{name}"].isdigit(), what
        assert answer.headers["ratelimit-policy"] == answer.headers["ratelimit-limit"] + ";w=1", what
        seen.add(answer.headers["x-request-id"])
    assert len(seen) == len(asked)


async def test_the_clients_own_request_id(api: httpx.AsyncClient) -> None:
    async def given(value: str) -> str:
        return (await api.get("/domains", headers={"x-request-id": value})).headers["x-request-id"]

    assert await given("trace-1.a_B") == "trace-1.a_B"
    for value in ("", "a b", "x" * 129, "re_abcdefgh_0123456789", "ä".encode("latin-1").decode("latin-1"), "<script>"):
        answer = await api.get(
            "/domains", headers={"x-request-id": value.encode("latin-1").decode("latin-1").encode("latin-1")}
        )
        assert answer.headers["x-request-id"] != value
        UUID(answer.headers["x-request-id"])


async def test_methods(api: httpx.AsyncClient) -> None:
    got, head = await api.get("/domains"), await api.head("/domains")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await api.head("/nowhere")).status_code == 404
    options = await api.options("/emails")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert_error(await api.options("/nowhere"), 404, "not_found")
    wrong = await api.put("/emails")
    assert_error(wrong, 405, "method_not_allowed", "Method is not allowed for the requested path.")
    assert wrong.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    for path in ("http://api.test//emails", "/emails/", "http://api.test//emails//"):
        assert (await api.get(path)).status_code == 200
    # of Resend, not built yet
    for path in (
        "/audiences",
        "/contacts",
        "/segments",
        "/topics",
        "/templates",
        "/broadcasts",
        "/automations",
        "/inboxes",
    ):
        assert_error(await api.get(path), 404, "not_found", "The requested endpoint does not exist.")


async def test_failed_sign_ins_are_counted(api: httpx.AsyncClient) -> None:
    def failures() -> float:
        return REGISTRY.get_sample_value("postroom_auth_failures_total") or 0

    before = failures()
    await api.get("/domains", headers={"authorization": "Bearer re_unknown"})
    await api.get("/domains")
    assert failures() == before + 1


async def test_a_redis_that_does_not_answer_is_asked_once_a_second_and_by_no_request(org: UUID) -> None:
    """As one that is stopped (SIGSTOP): it takes connections and never says a word."""
    asked = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        while await reader.read(65_536):
            pass
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    ringer = Ringer(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout_seconds=0.05)
    limiter = RateLimiter(ringer, 10)
    began = time.monotonic()
    try:
        first = await asyncio.gather(*(limiter.take(org) for _ in range(100)))
        assert 10 <= sum(not rate.exceeded for rate in first) <= 20  # a window may have ended meanwhile
        waited = 0
        while time.monotonic() - began < 1.5:
            task = asyncio.ensure_future(limiter.take(org))
            await asyncio.sleep(0)
            waited += not task.done()
            await task
        assert waited == 0, "no request waits for a Redis that is known to be away"
        assert asked <= 1 + int(time.monotonic() - began)
    finally:
        await ringer.close()
        server.close()


async def test_a_window_is_shared_exactly(ringer: Ringer, make_key: MakeKey) -> None:
    """Large limits are taken in shares, small ones one by one; neither is ever exceeded."""
    for limit in (3, 500):
        limiters = [RateLimiter(ringer, limit) for _ in range(3)]
        org = uuid7()
        began = int(time.time())
        rates = await asyncio.gather(*(limiters[n % 3].take(org) for n in range(limit * 2)))
        passed = sum(not rate.exceeded for rate in rates)
        windows = int(time.time()) - began + 1
        assert limit * 0.9 <= passed <= limit * windows
        assert all(0 <= rate.remaining < limit for rate in rates)
