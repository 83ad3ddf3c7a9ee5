"""Received mail over the API: Resend's shapes, its content, and links that need no key."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore import blob
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals
from mailcore.store.session import Store

from .harness import PATIENT, MakeClient, MakeKey, assert_error

PNG = bytes(range(256))
MAIL = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>\r\nTo: support@postroom.test\r\nReply-To: r@sender.example\r\n"
    b"Subject: =?utf-8?b?SGVsbMO2?=\r\nMessage-ID: <1@sender.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
    b"--c\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\nGr\xfc\xdfe\r\n"
    b"--c\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b'<p>Gr=C3=BC=C3=9Fe <img src=3D"cid:img"> <img src=3D"cid:none"></p>\r\n--c--\r\n'
    b"--b\r\nContent-Type: image/png\r\nContent-ID: <img>\r\nContent-Disposition: inline; filename=a.png\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(PNG).replace(b"\n", b"\r\n") + b"\r\n"
    b"--b\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename*=utf-8''..%2F%E2%82%AC%0D%0A.html\r\n\r\n"
    b"<script>alert(1)</script>\r\n--b--\r\n"
)

Deliver = Callable[..., Awaitable[UUID]]


@pytest.fixture
def deliver(store: Store, ringer: Ringer, tmp_path: Path) -> Deliver:
    blobs = blob.open((tmp_path / "blobs").as_uri())
    receives, routes = Receives(store, ringer, blobs), Routes(store, ringer, blobs, patience=PATIENT)

    async def deliver(org: UUID, raw: bytes, *, route: bool = True, to: str = "support@postroom.test") -> UUID:
        done = await receives.receive(
            Arrival(raw, Envelope("j@sender.example", (to,)), {"helo": "x"}, "192.0.2.7", None, "smtp", {org: [to]})
        )
        if route:
            lease = WorkerLease(store, "inbound_smtp")
            await lease.enrol()
            async with store.worker() as db:
                claimed = await arrivals.claim(db, lease.id, 10)
            assert await routes.route(lease.id, claimed) == 1
        return done.ids[org]

    return deliver


async def test_a_received_email(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    id_ = await deliver(org, MAIL)
    answer = await api.get(f"/emails/receiving/{id_}")
    assert answer.status_code == 200
    email = answer.json()
    assert set(email) == {
        *("object", "id", "to", "from", "created_at", "subject", "html", "text", "html_format", "headers", "bcc", "cc"),
        *("reply_to", "received_for", "message_id", "raw", "attachments"),
    }
    assert (email["object"], email["id"], email["html_format"]) == ("email", str(id_), "data_uri")
    assert (email["from"], email["to"]) == ("j@sender.example", ["support@postroom.test"])
    assert (email["cc"], email["bcc"], email["reply_to"]) == ([], [], ["r@sender.example"])
    assert (email["subject"], email["message_id"]) == ("Hellö", "<1@sender.example>")
    assert email["received_for"] == ["support@postroom.test"]
    assert email["text"] == "Grüße"
    image = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert email["html"] == f'<p>Grüße <img src="{image}"> <img src="cid:none"></p>'
    assert email["headers"]["from"] == "Jürgen <j@sender.example>"
    assert all(isinstance(value, str) and name == name.lower() for name, value in email["headers"].items())
    assert [set(one) for one in email["attachments"]] == [
        {"id", "filename", "content_type", "content_id", "content_disposition", "size"}
    ] * 2
    cid = (await api.get(f"/emails/receiving/{id_}?html_format=cid")).json()
    assert (cid["html_format"], cid["html"]) == ("cid", '<p>Grüße <img src="cid:img"> <img src="cid:none"></p>')
    assert_error(await api.get(f"/emails/receiving/{id_}?html_format=x"), 422, "invalid_parameter", "html_format")


async def test_the_list(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    ids = [str(await deliver(org, MAIL + b"%d\r\n" % n)) for n in range(3)]
    await deliver(org, MAIL + b"not routed\r\n", route=False)
    body = (await api.get("/emails/receiving")).json()
    assert (body["object"], body["has_more"]) == ("list", False)
    assert [one["id"] for one in body["data"]] == ids[::-1]
    assert set(body["data"][0]) == {
        *(
            "id",
            "to",
            "from",
            "created_at",
            "subject",
            "bcc",
            "cc",
            "reply_to",
            "message_id",
            "received_for",
            "attachments",
        )
    }
    page = (await api.get(f"/emails/receiving?limit=1&after={ids[2]}")).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([ids[1]], True)
    assert_error(await api.get("/emails/receiving?limit=0"), 422, "validation_error")


async def test_mailits_form(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    ids = [str(await deliver(org, MAIL + b"%d\r\n" % n)) for n in range(3)]
    await deliver(org, MAIL + b"not routed\r\n", route=False)
    body = (await api.get("/inbound/emails?per_page=2")).json()
    rows = body.pop("data")
    assert body == {"total": 3, "page": 1, "per_page": 2, "total_pages": 2, "has_more": True}
    assert [row["id"] for row in rows] == ids[:0:-1]
    assert set(rows[0]) == {"id", "from", "to", "subject", "html", "text", "created_at"}
    assert (rows[0]["from"], rows[0]["subject"], rows[0]["html"]) == ("j@sender.example", "Hellö", None)
    second = (await api.get("/inbound/emails?per_page=2&page=2")).json()
    assert ([row["id"] for row in second["data"]], second["has_more"]) == (ids[:1], False)
    one = (await api.get(f"/inbound/emails/{ids[0]}")).json()
    assert one == second["data"][0] | {"html": one["html"], "text": "Grüße"}
    assert one["html"].startswith('<p>Grüße <img src="data:image/png;base64,')
    for query in ("page=0", "per_page=101", "page=x", "page=9999999", "page=101&per_page=100"):
        assert_error(await api.get(f"/inbound/emails?{query}"), 422, "validation_error")
    assert_error(await api.get(f"/inbound/emails/{uuid7()}"), 404, "not_found", "Email")
    assert_error(await api.get("/inbound/emails/x"), 422, "invalid_parameter")


async def test_attachments_and_their_links(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    id_ = await deliver(org, MAIL)
    listed = (await api.get(f"/emails/receiving/{id_}/attachments")).json()
    assert (listed["object"], listed["has_more"]) == ("list", False)
    image, page = listed["data"]
    assert (image["filename"], image["content_type"], image["size"]) == ("a.png", "image/png", 256)
    assert (image["content_disposition"], image["content_id"]) == ("inline", "img")
    assert (page["filename"], page["content_disposition"]) == ("€ .html", "attachment")
    one = (await api.get(f"/emails/receiving/{id_}/attachments/{image['id']}")).json()
    assert one == {"object": "attachment"} | image | {
        "download_url": one["download_url"],
        "expires_at": one["expires_at"],
    }
    bare = {"authorization": ""}
    got = await api.get(_path(image["download_url"]), headers=bare)
    assert (got.status_code, got.content, got.headers["content-type"]) == (200, PNG, "image/png")
    got = await api.get(_path(page["download_url"]), headers=bare)
    assert got.content == b"<script>alert(1)</script>"
    assert got.headers["content-disposition"] == "attachment; filename=\"_ .html\"; filename*=UTF-8''%E2%82%AC%20.html"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    first = (await api.get(f"/emails/receiving/{id_}/attachments?limit=1")).json()
    assert ([x["id"] for x in first["data"]], first["has_more"]) == ([image["id"]], True)
    rest = (await api.get(f"/emails/receiving/{id_}/attachments?limit=1&after={image['id']}")).json()
    assert ([x["id"] for x in rest["data"]], rest["has_more"]) == ([page["id"]], False)
    assert_error(await api.get(f"/emails/receiving/{id_}/attachments/{uuid7()}"), 404, "not_found", "Attachment")


@pytest.mark.parametrize("size", [0, 100_000, 3_000_000], ids=["row", "blob", "own process"])
async def test_the_raw_mail_is_what_came(api: httpx.AsyncClient, org: UUID, deliver: Deliver, size: int) -> None:
    raw = MAIL + b"\xff" * size + b"\r\n"
    id_ = await deliver(org, raw)
    email = (await api.get(f"/emails/receiving/{id_}")).json()
    assert (email["subject"], email["text"]) == ("Hellö", "Grüße")
    got = await api.get(_path(email["raw"]["download_url"]), headers={"authorization": ""})
    assert (got.status_code, got.content) == (200, raw)
    assert got.headers["content-type"] == "message/rfc822"
    listed = (await api.get(f"/emails/receiving/{id_}/attachments")).json()["data"]
    got = await api.get(_path(listed[0]["download_url"]), headers={"authorization": ""})
    assert got.content == PNG


async def test_a_link_opens_one_thing_for_an_hour(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, make_client: MakeClient
) -> None:
    one, other = await deliver(org, MAIL), await deliver(org, MAIL + b"x\r\n")
    url = (await api.get(f"/emails/receiving/{one}")).json()["raw"]["download_url"]
    path, query = urlsplit(url).path, dict(parse_qsl(urlsplit(url).query))

    async def refused(path: str, **changed: str) -> None:
        answer = await api.get(f"{path}?{urlencode({**query, **changed})}")
        assert_error(answer, 403, "validation_error", "link")

    await refused(path.replace(str(one), str(other)))
    await refused(path.replace(str(org), str(uuid7())))
    await refused(path.replace("/raw", f"/{uuid7()}"))
    await refused(path, expires=str(int(query["expires"]) + 1))
    await refused(path, signature="0" * 64)
    await refused(path, signature="é")
    await refused(path, expires="x")
    assert_error(await api.get(path), 403, "validation_error")
    from api.links import RECEIVED, Links
    from mailcore.kit.seal import Keyring

    old = Links(Keyring([bytes(range(32))]).derive("link"), "http://api.test").file(
        RECEIVED, org, one, "raw", now=1_000_000
    )
    assert_error(await api.get(_path(old.url)), 403, "validation_error", "expired")


async def test_another_organization_sees_nothing(
    api: httpx.AsyncClient,
    org: UUID,
    deliver: Deliver,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
) -> None:
    id_ = await deliver(org, MAIL)
    stranger = await make_client(await make_key(await make_org()))
    for path in (f"/emails/receiving/{id_}", f"/emails/receiving/{id_}/attachments", f"/v1/arrivals/{id_}"):
        assert_error(await stranger.get(path), 404, "not_found")
    assert (await stranger.get("/emails/receiving")).json()["data"] == []
    assert (await stranger.get("/v1/arrivals")).json()["data"] == []
    sender = await make_client(await make_key(org, permission="sending_access"))
    assert_error(await sender.get("/emails/receiving"), 401, "restricted_api_key")
    assert_error(await api.get("/emails/receiving/nonsense"), 422, "invalid_parameter")


async def test_an_arrival_tells_what_happened_and_why(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, admin: asyncpg.Connection
) -> None:
    id_ = await deliver(org, MAIL, route=False, to="support+x@postroom.test")
    waiting = (await api.get(f"/v1/arrivals/{id_}")).json()
    assert (waiting["object"], waiting["state"], waiting["messages"]) == ("arrival", "received", [])
    assert (waiting["queue"]["attempt"], waiting["queue"]["leased"]) == (0, False)
    assert_error(await api.get(f"/emails/receiving/{id_}"), 404, "not_found")
    await admin.execute("DELETE FROM arrival_queue")
    other = await deliver(org, MAIL + b"x\r\n", to="support+x@postroom.test")
    arrival = (await api.get(f"/v1/arrivals/{other}")).json()
    assert (arrival["door"], arrival["source"], arrival["mail_from"]) == ("smtp", "192.0.2.7", "j@sender.example")
    assert (arrival["rcpt_to"], arrival["facts"]) == (["support+x@postroom.test"], {"helo": "x"})
    assert (arrival["state"], arrival["queue"], arrival["subject"]) == ("routed", None, "Hellö")
    assert [one["mailbox"] for one in arrival["messages"]] == ["support@postroom.test"]
    assert [one["decision"] for one in arrival["decisions"]] == ["accepted", "delivered", "announced"]
    assert all(one["reason"] and one["at"] for one in arrival["decisions"])
    got = await api.get(_path(arrival["raw"]["download_url"]))
    assert got.content == MAIL + b"x\r\n"
    assert [one["id"] for one in (await api.get("/v1/arrivals?door=smtp")).json()["data"]] == [str(other), str(id_)]
    assert (await api.get("/v1/arrivals?door=resend")).json()["data"] == []
    message = arrival["messages"][0]
    assert (await api.get(f"/v1/messages/{message['id']}")).json()["arrival_id"] == str(other)


def _path(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"
