"""Every answer of every route carries the headers that keep browsers safe (features.md F-70): good ones, errors and downloads."""

from __future__ import annotations

from uuid import uuid4

import httpx

from api.auth import ADMINS_ONLY

from .harness import MakeClient

WANTED = {
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def assert_safe(answer: httpx.Response) -> None:
    asked = f"{answer.request.method} {answer.request.url} → {answer.status_code}"
    for name, value in WANTED.items():
        assert answer.headers.get_list(name) == [value], f"{asked}: {name}"


async def test_on_every_route(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    statuses = set()
    for path, operations in paths.items():
        url = path
        while "{" in url:
            url = url[: url.index("{")] + str(uuid4()) + url[url.index("}") + 1 :]
        for method in operations:
            for headers, content in (
                ({}, b""),
                ({}, b"{"),
                ({"authorization": "Bearer re_x"}, b""),
                ({"authorization": ""}, b""),
            ):
                answer = await api.request(method.upper(), url, headers=headers, content=content)
                assert_safe(answer)
                statuses.add(answer.status_code)
        assert_safe(await api.head(url))
        assert_safe(await api.options(url))
        traced = await api.request("TRACE", url)
        assert_safe(traced)
        statuses.add(traced.status_code)
    assert {200, 400, 401, 404, 405, 422} <= statuses


WITHOUT_A_ROUTE: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("GET", "/nothing", b"", {}),
    ("GET", "/%00", b"", {}),
    ("GET", "/emails?x=%00", b"", {}),
    ("POST", "/emails", b"[" * 100_000, {}),
    ("POST", "/emails", b"", {"content-length": "60000001"}),
    ("GET", "/", b"", {"accept": "text/html"}),
    ("GET", "/docs", b"", {}),
    ("GET", "/openapi.json", b"", {}),
    ("GET", "/v1/downloads/x/y/z", b"", {}),
]


async def test_on_answers_without_a_route(api: httpx.AsyncClient) -> None:
    for method, url, content, headers in WITHOUT_A_ROUTE:
        assert_safe(await api.request(method, url, content=content, headers=headers))


async def test_while_the_database_is_away(make_client: MakeClient) -> None:
    away = await make_client("re_some_key", database={"url": "postgresql://postroom@127.0.0.1:1/none"})
    for path in ("/emails", "/readyz", "/v1/auth/me"):
        answer = await away.get(path)
        assert answer.status_code == 503
        assert_safe(answer)
    login = await away.post("/auth/login", json={"email": "a@example.com", "password": "x"})
    assert login.status_code == 503
    assert_safe(login)


async def test_browsers_keep_to_tls_where_people_come_by_it(make_client: MakeClient) -> None:
    api = await make_client(http={"public_url": "https://mail.example"})
    for path in ("/health", "/emails", "/nothing"):
        assert (await api.get(path)).headers["strict-transport-security"].startswith("max-age=31536000")
    plain = await make_client()
    assert "strict-transport-security" not in (await plain.get("/health")).headers


async def test_what_only_admins_may_do_exists(api: httpx.AsyncClient) -> None:
    """A path that was renamed must not leave members with what was closed to them."""
    paths = (await api.get("/openapi.json")).json()["paths"]
    for start, _ in ADMINS_ONLY:
        assert [path for path in paths if path == start or path.startswith(start + "/")], start
