"""Images that mail names elsewhere: left out, or fetched through us, by a real server on loopback (reliability C7, D1)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, assert_error
from .test_messages import PNG, Deliver, deliver, mail

__all__ = ["deliver"]


class Elsewhere(BaseHTTPRequestHandler):
    asked: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012 - one a test

    def do_GET(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("location", "/a.png")
            self.end_headers()
            return
        body, kind = {
            "/a.png": (PNG, "text/html"),
            "/page": (b"<script>alert(1)</script>", "image/png"),
            "/drawing": (b"<svg onload='alert(1)'/>", "image/svg+xml"),
            "/inside": (PNG, "image/png"),
            "/huge": (b"GIF89a" + bytes(11 * 1024 * 1024), "image/gif"),
        }[self.path.partition("?")[0]]
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("set-cookie", "who=you")
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    Elsewhere.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _sources(html: str) -> list[str]:
    pieces = html.split('src="')[1:]
    return [piece.partition('"')[0].replace("&amp;", "&") for piece in pieces]


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


async def test_nothing_is_asked_of_strangers_until_somebody_wants_their_images(
    make_client: MakeClient, token: str, org: UUID, deliver: Deliver, elsewhere: str
) -> None:
    api = await make_client(token, network={"allow": {"images": "127.0.0.0/8"}})
    kinds = ("/a.png?u=1&v=2", "/moved", "/page", "/drawing", "/huge")
    html = (
        "".join(f'<img src="{elsewhere}{path}">' for path in kinds) + '<p style="background:url(http://10.0.0.1/x)">y'
    )
    await deliver(org, mail("Look", html, Content_Type="text/html"))
    (listed,) = (await api.get("/v1/messages")).json()["data"]
    blocked = (await api.get(f"/v1/messages/{listed['id']}")).json()
    assert (blocked["remote_images"], blocked["images"], _sources(blocked["html"])) == (6, "block", [])
    shown = (await api.get(f"/v1/messages/{listed['id']}?images=proxy")).json()
    assert (shown["remote_images"], shown["images"], Elsewhere.asked) == (6, "proxy", [])
    links = _sources(shown["html"])
    assert len(links) == 5
    assert elsewhere not in shown["html"], "only within our own links"
    anybody = {"authorization": "", "cookie": "postroom_session=x", "referer": "https://console.example/mail"}
    answers = [await api.get(_path(link), headers=anybody) for link in links]
    assert [one.status_code for one in answers] == [200, 200, 404, 404, 404]
    for one in answers[:2]:
        assert (one.content, one.headers["content-type"]) == (PNG, "image/png")
        assert one.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert one.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in one.headers
    path, headers = Elsewhere.asked[0]
    assert path == "/a.png?u=1&v=2"
    assert set(headers) == {"host", "accept", "user-agent"}
    (inside,) = [piece.partition("'")[0] for piece in shown["html"].replace("&amp;", "&").split("url('")[1:]]
    closed = await api.get(_path(inside), headers=anybody)
    assert_error(closed, 404, "not_found")


async def test_a_link_is_for_one_image_of_one_message(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    await deliver(org, mail("Look", '<img src="http://203.0.113.1/a">', Content_Type="text/html"))
    (listed,) = (await api.get("/v1/messages")).json()["data"]
    (link,) = _sources((await api.get(f"/v1/messages/{listed['id']}?images=proxy")).json()["html"])
    parts = urlsplit(link)
    query = dict(parse_qsl(parts.query))
    other = parts.path.replace(listed["id"], str(uuid7()))
    for path, changed in (
        (parts.path, query | {"url": "http://203.0.113.1/b"}),
        (parts.path, query | {"expires": "99999999999"}),
        (parts.path, query | {"signature": ""}),
        (parts.path, {}),
        (other, query),
    ):
        assert_error(await api.get(f"{path}?{urlencode(changed)}"), 403, "validation_error")
    again = await api.get(f"/v1/downloads/received/{parts.path.split('/')[-2]}/{listed['id']}/raw?{urlencode(query)}")
    assert again.status_code == 403, "nor for a download"
