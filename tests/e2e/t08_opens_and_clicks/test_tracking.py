"""A reader opens a mail and follows its link: the caught mail shows what was put in, the API and a webhook what came of it."""

from __future__ import annotations

import email
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email import policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import loads
from threading import Thread
from typing import Any

import httpx
import pytest

from stack import Stack, wait_for

PERSON = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}
TARGET = "https://shop.example/p?id=1&utm=mail"
HTML = f'<p>Hello <a href="{html.escape(TARGET)}">our shop</a>, <a href="mailto:us@postroom.test">us</a></p>'


@pytest.fixture
def tracked(api: httpx.Client) -> Iterator[None]:
    """Opens and clicks of postroom.test are tracked."""
    (id_,) = [each["id"] for each in api.get("/domains").json()["data"] if each["name"] == "postroom.test"]
    answer = api.patch(f"/domains/{id_}", json={"open_tracking": True, "click_tracking": True})
    assert answer.status_code == 200, answer.text
    yield
    assert api.patch(f"/domains/{id_}", json={"open_tracking": False, "click_tracking": False}).status_code == 200


@contextmanager
def _posts(api: httpx.Client, *types: str) -> Iterator[list[dict[str, Any]]]:
    taken: list[dict[str, Any]] = []

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    made = api.post(
        "/webhooks", json={"endpoint": f"http://127.0.0.1:{server.server_address[1]}/hook", "events": list(types)}
    ).json()
    try:
        yield taken
    finally:
        api.delete(f"/webhooks/{made['id']}")
        server.shutdown()
        thread.join()
        server.server_close()


def _sent(stack: Stack, api: httpx.Client, to: str, **fields: Any) -> tuple[str, str]:
    """The email's id, and its html as it was delivered."""
    message = {"from": "hello@postroom.test", "to": to, "subject": "s", "html": HTML, **fields}
    id_ = api.post("/emails", json=message).json()["id"]
    caught = wait_for(lambda: stack.caught(to=to), f"mail to {to}")[-1]
    wait_for(lambda: api.get(f"/emails/{id_}").json()["last_event"] == "delivered", "delivered")
    parsed = email.message_from_bytes(stack.raw(caught), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    part = parsed.get_body(("html",))
    assert part is not None
    return id_, part.get_content()


def _reader() -> httpx.Client:
    return httpx.Client(headers={"user-agent": PERSON}, timeout=60)


def _altered(url: str) -> str:
    """With another last sign, whatever that was."""
    return url[:-1] + ("A" if url[-1] != "A" else "B")


def _last_event(api: httpx.Client, id_: str, wanted: str) -> None:
    wait_for(lambda: api.get(f"/emails/{id_}").json()["last_event"] == wanted, wanted)


def test_an_open_and_a_click(stack: Stack, api: httpx.Client, tracked: None) -> None:
    with _posts(api, "email.opened", "email.clicked") as posts, _reader() as reader:
        id_, body = _sent(stack, api, "t08-reader@example.com")
        (pixel,) = re.findall(r'<img src="([^"]*)"', body)
        link, mailto = re.findall(r'href="([^"]*)"', body)
        assert link.startswith(stack.dev["api_url"] + "/track/click/") and mailto == "mailto:us@postroom.test"
        shown = reader.get(pixel)
        assert (shown.status_code, shown.headers["content-type"]) == (200, "image/gif")
        _last_event(api, id_, "opened")
        followed = reader.get(link)
        assert (followed.status_code, followed.headers["location"]) == (302, TARGET)
        _last_event(api, id_, "clicked")
        wait_for(lambda: len(posts) >= 2, "the reader's posts")
        # a scanner comes by later, and is told from the reader
        assert reader.head(link).status_code == 302
        reader.get(pixel, headers={"user-agent": "Mimecast URL Protect"})
        wait_for(lambda: len(posts) >= 4, "four posts")
        by_type = {
            kind: [post["data"] for post in posts if post["type"] == kind] for kind in ("email.opened", "email.clicked")
        }
        click = by_type["email.clicked"][0]
        assert (click["email_id"], click["to"]) == (id_, ["t08-reader@example.com"])
        assert (click["click"]["link"], click["click"]["userAgent"]) == (TARGET, PERSON)
        assert click["click"]["ipAddress"] == "127.0.0.1" and click["click"]["timestamp"].endswith("Z")
        assert by_type["email.clicked"][1]["click"]["scanner"]
        assert by_type["email.opened"][1]["open"]["scanner"]
        assert all("first" not in post["data"] for post in posts)
    answer = httpx.get(_altered(link), timeout=60)
    assert answer.status_code == 404 and "location" not in answer.headers


def test_one_click_unsubscribe(stack: Stack, api: httpx.Client, tracked: None) -> None:
    place = "{{{RESEND_UNSUBSCRIBE_URL}}}"
    fields = {"html": f'<a href="{place}">leave</a>', "headers": {"List-Unsubscribe": f"<{place}>"}}
    _, body = _sent(stack, api, "t08-leaves@example.com", **fields)
    (caught,) = stack.caught(to="t08-leaves@example.com")
    message = email.message_from_bytes(stack.raw(caught), policy=policy.default)
    url = message["List-Unsubscribe"].strip("<>")
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert re.findall(r'href="([^"]*)"', body) == [url], "not led through click tracking"
    page = httpx.get(url, timeout=60)
    assert page.status_code == 200 and "t08-leaves@example.com" in page.text and "<script" not in page.text
    answers = [httpx.post(url, data=ONE_CLICK, timeout=60) for _ in range(2)]
    assert [(answer.status_code, "set-cookie" in answer.headers) for answer in answers] == [(200, False)] * 2
    assert answers[0].text == answers[1].text != page.text
    assert httpx.post(_altered(url), data=ONE_CLICK, timeout=60).status_code == 404


def test_an_email_that_is_not_tracked(stack: Stack, api: httpx.Client, tracked: None) -> None:
    _, body = _sent(stack, api, "t08-private@example.com", tracking={"opens": False, "clicks": False})
    assert body.strip() == HTML
