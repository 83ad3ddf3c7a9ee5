"""Attachments of sent mail by signed URL, and the page that a shared link shows: hostile HTML can do nothing there."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Awaitable, Callable
from html import unescape
from html.parser import HTMLParser
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from mailcore.kit.ids import uuid7

from .harness import MakeClient, MakeKey, assert_error, email

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
EVIL = '<p>Hi</p><script>fetch("/emails")</script><img src="cid:logo"><iframe src="/v1/x"></iframe><base href="//evil.example">'
RAW = (
    b"From: a@postroom.test\r\nTo: you@example.com\r\nSubject: Raw\r\nMessage-ID: <raw@postroom.test>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b"<p>Raw &amp; ready</p>\r\n"
    b"--b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=t.csv\r\n\r\na,b\r\n--b--\r\n"
)


@pytest.fixture
def anyone(make_client: MakeClient) -> Callable[[], Awaitable[httpx.AsyncClient]]:
    return make_client


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def _file(content: bytes, **more: object) -> dict[str, object]:
    return {"content": base64.b64encode(content).decode(), **more}


async def _send(api: httpx.AsyncClient, **changed: object) -> str:
    answer = await api.post("/emails", json=email(**changed))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_attachments_in_the_row_and_in_the_blob_store(api: httpx.AsyncClient, make_client: MakeClient) -> None:
    big = bytes(range(256)) * 1000
    files = [
        _file(b"small", filename="ä <b>.txt"),
        _file(big, filename="big.bin"),
        _file(PNG, filename="logo.png", content_id="logo"),
    ]
    id_ = await _send(api, attachments=files)
    listed = (await api.get(f"/emails/{id_}/attachments")).json()
    assert (listed["object"], listed["has_more"]) == ("list", False)
    assert [
        (one["filename"], one["size"], one["content_disposition"], one["content_id"]) for one in listed["data"]
    ] == [
        ("ä <b>.txt", 5, "attachment", None),
        ("big.bin", len(big), "attachment", None),
        ("logo.png", len(PNG), "inline", "logo"),
    ]
    assert not {"content", "blob"} & set().union(*listed["data"])
    stranger = await make_client()
    for one, content in zip(listed["data"], (b"small", big, PNG), strict=True):
        got = (await api.get(f"/emails/{id_}/attachments/{one['id']}")).json()
        assert got["object"] == "attachment"
        assert {**got, "download_url": "", "expires_at": ""} == {
            **one,
            "object": "attachment",
            "download_url": "",
            "expires_at": "",
        }
        answer = await stranger.get(_path(got["download_url"]))
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert "sandbox" in answer.headers["content-security-policy"]
    first, second = (one["id"] for one in listed["data"][:2])
    page = (await api.get(f"/emails/{id_}/attachments", params={"limit": 1, "after": first})).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([second], True)


async def test_attachments_in_a_batch(api: httpx.AsyncClient, make_client: MakeClient) -> None:
    batch = [email(attachments=[_file(b"%d" % n, filename=f"{n}.txt")]) for n in range(3)]
    sent = await api.post("/emails/batch", json={"emails": batch})
    assert sent.status_code == 200, sent.text
    for n, one in enumerate(sent.json()["data"]):
        (found,) = (await api.get(f"/emails/{one['id']}/attachments")).json()["data"]
        assert (await (await make_client()).get(_path(found["download_url"]))).content == b"%d" % n


async def test_links_to_attachments_hold_for_one_thing(api: httpx.AsyncClient, org: UUID) -> None:
    id_ = await _send(api, attachments=[_file(b"one", filename="1"), _file(b"two", filename="2")])
    one, two = (await api.get(f"/emails/{id_}/attachments")).json()["data"]
    parts = urlsplit(one["download_url"])
    query = dict(parse_qsl(parts.query))
    for path, changed in (
        (parts.path.replace(one["id"], two["id"]), query),
        (parts.path.replace(str(org), str(uuid7())), query),
        (parts.path.replace("/sent/", "/received/"), query),
        (parts.path, query | {"expires": str(int(query["expires"]) + 1)}),
        (parts.path, {}),
    ):
        assert_error(await api.get(f"{path}?{urlencode(changed)}"), 403, "validation_error", "link")


async def test_foreign_and_unknown_ids(
    api: httpx.AsyncClient, make_org: Callable[[], Awaitable[UUID]], make_key: MakeKey, make_client: MakeClient
) -> None:
    id_ = await _send(api, attachments=[_file(b"x", filename="x")])
    other = await _send(api)
    (file,) = (await api.get(f"/emails/{id_}/attachments")).json()["data"]
    stranger = await make_client(await make_key(await make_org()))
    assert_error(await stranger.get(f"/emails/{id_}/attachments"), 404, "not_found", "Email not found")
    assert_error(await stranger.get(f"/emails/{id_}/attachments/{file['id']}"), 404, "not_found", "Email not found")
    assert_error(await api.get(f"/emails/{other}/attachments/{file['id']}"), 404, "not_found", "Attachment not found")
    assert_error(await api.get(f"/emails/{id_}/attachments/{uuid4()}"), 404, "not_found", "Attachment not found")
    assert_error(await api.get(f"/emails/{id_}/attachments/x"), 422, "invalid_parameter", "attachment_id")
    assert (await api.get(f"/emails/{other}/attachments")).json() == {"object": "list", "has_more": False, "data": []}


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


async def test_files_of_a_shared_page_end_with_it(api: httpx.AsyncClient, make_client: MakeClient) -> None:
    id_ = await _send(api, attachments=[_file(b"small", filename="a.txt")])
    for asked, seconds in (("10m", 600), ("2d", 3600)):
        shared = (await api.post(f"/emails/{id_}/share", json={"expires_in": asked})).json()["url"]
        page = (await (await make_client()).get(_path(shared))).text
        (link,) = re.findall(r'href="([^"]*/v1/downloads/[^"]*)"', page)
        file, of_page = (dict(parse_qsl(urlsplit(unescape(url)).query))["expires"] for url in (link, shared))
        assert int(file) <= int(of_page)
        assert seconds - 60 < int(file) - time.time() <= seconds
        assert (await (await make_client()).get(_path(unescape(link)))).content == b"small"


async def test_a_name_of_any_length_fits_into_the_header(api: httpx.AsyncClient, make_client: MakeClient) -> None:
    names = {
        "ä" * 250 + ".pdf": "ä" * 98 + ".pdf",
        "x" * 255: "x" * 200,
        "a." + "b" * 240: "a." + "b" * 198,
        "é.txt": "é.txt",
    }
    id_ = await _send(api, attachments=[_file(b"-", filename=name) for name in names])
    for one in (await api.get(f"/emails/{id_}/attachments")).json()["data"]:
        url = (await api.get(f"/emails/{id_}/attachments/{one['id']}")).json()["download_url"]
        header = (await (await make_client()).get(_path(url))).headers["content-disposition"]
        assert unquote(header.partition("filename*=UTF-8''")[2]) == names[one["filename"]]
        assert len(header) < 1000


async def test_a_shared_page(api: httpx.AsyncClient, make_client: MakeClient) -> None:
    id_ = await _send(
        api,
        html=EVIL,
        subject="<script>alert(1)</script>",
        attachments=[_file(PNG, filename="<img src=x>.png", content_id="logo", content_type="image/png")],
    )
    shared = await api.post(f"/emails/{id_}/share", json={"expires_in": "10m"})
    assert (shared.status_code, set(shared.json()), shared.json()["object"]) == (200, {"object", "id", "url"}, "email")
    stranger = await make_client()
    page = await stranger.get(_path(shared.json()["url"]))
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    elements = _Elements(page.text).found
    ours = {"html", "meta", "title", "style", "main", "h1", "h2", "dl", "dt", "dd", "iframe", "ul", "li", "a"}
    assert {tag for tag, _ in elements} <= ours
    (frame,) = [attributes for tag, attributes in elements if tag == "iframe"]
    assert frame["sandbox"] == ""
    # what the mail itself is: a document of its own without any right, whoever opens it and however
    body = await stranger.get(frame["src"] or "")
    assert 'src="data:image/png;base64,' in body.text
    assert "<script>" in body.text
    rights = [part.strip() for part in body.headers["content-security-policy"].split(";")]
    assert "sandbox" in rights
    assert "default-src 'none'" in rights
    assert not any(part.startswith(("script-src", "connect-src", "frame-src", "object-src")) for part in rights)
    assert body.headers["x-content-type-options"] == "nosniff"
    (file,) = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert (await stranger.get(_path(file or ""))).content == PNG
    for path in (
        _path(shared.json()["url"]).replace(id_, str(uuid4())),
        frame["src"].replace("signature=", "signature=0"),
    ):
        assert_error(await stranger.get(path), 403, "validation_error", "link")


async def test_a_page_without_html_shows_the_text(api: httpx.AsyncClient) -> None:
    id_ = await _send(api, html=..., text="1 < 2 <script>")
    for body in (b"", b"{}", b'{"expires_in":null}'):
        url = (await api.post(f"/emails/{id_}/share", content=body)).json()["url"]
        page = await api.get(_path(url))
        assert "<pre>1 &lt; 2 &lt;script&gt;</pre>" in page.text
        assert "<iframe" not in page.text


@pytest.mark.parametrize(
    ("expires_in", "words"),
    [("49 hours", "48 hours"), ("3 days", "48 hours"), ("soon", "amount"), ("0m", "one second"), (5, "expires_in")],
)
async def test_how_long_it_is_shared(api: httpx.AsyncClient, expires_in: object, words: str) -> None:
    id_ = await _send(api)
    assert_error(
        await api.post(f"/emails/{id_}/share", json={"expires_in": expires_in}), 422, "validation_error", words
    )


async def test_a_message_that_was_handed_in_whole(
    api: httpx.AsyncClient, admin: asyncpg.Connection, make_client: MakeClient
) -> None:
    """As submission stores it: html, text and attachments are read out of it."""
    id_ = await _send(api)
    await admin.execute("UPDATE emails SET html = NULL, text_ = NULL, raw = $2 WHERE id = $1", UUID(id_), RAW)
    got = (await api.get(f"/emails/{id_}")).json()
    assert (got["html"].strip(), got["object"]) == ("<p>Raw &amp; ready</p>", "email")
    (file,) = (await api.get(f"/emails/{id_}/attachments")).json()["data"]
    assert (file["filename"], file["content_type"], file["content_disposition"]) == ("t.csv", "text/csv", "attachment")
    assert (await api.get(f"/emails/{id_}/attachments/{file['id']}")).status_code == 200
    stranger = await make_client()
    assert (await stranger.get(_path(file["download_url"]))).content.strip() == b"a,b"
    url = (await api.post(f"/emails/{id_}/share")).json()["url"]
    page = await stranger.get(_path(url))
    assert page.status_code == 200
    assert "t.csv" in page.text


async def test_an_image_named_many_times_does_not_grow_the_page(
    api: httpx.AsyncClient, anyone: Callable[[], Awaitable[httpx.AsyncClient]]
) -> None:
    """Each place got the image whole: a mail of some megabytes made a page of gigabytes, and took the process with it."""
    image = PNG + bytes(200_000)
    files = [_file(image, filename="logo.png", content_id="logo", content_type="image/png")]
    id_ = await _send(api, html='<img src="cid:logo">' * 300, attachments=files)
    url = (await api.post(f"/emails/{id_}/share")).json()["url"]
    shown = await (await anyone()).get(_path(url).replace("?", "/body?"))
    assert shown.status_code == 200
    assert "data:image/png;base64," in shown.text and 'src="cid:logo"' in shown.text
    assert len(shown.text) < 7_000_000
