"""Events at a listener of the user's: signed as Standard Webhooks says, sent again until it takes them, silent when deleted."""

from __future__ import annotations

import json
import smtplib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from stack import Stack, wait_for


class Listener(ThreadingHTTPServer):
    """Keeps each post; answers 503 to the first `failures` of them about an address."""

    daemon_threads = True

    def __init__(self, failures: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.failures = failures
        self.posts: list[tuple[dict[str, str], bytes, int]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def about(self, address: str) -> list[tuple[dict[str, str], bytes, int]]:
        """Its posts: mail of an earlier story may still be on its way."""
        return [post for post in list(self.posts) if address in json.loads(post[1])["data"]["to"]]


class _Post(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            address = json.loads(body)["data"]["to"][0]
            status = 503 if len(self.server.about(address)) < self.server.failures else 200
            self.server.posts.append(({name.lower(): value for name, value in self.headers.items()}, body, status))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _listening(listener: Listener) -> Iterator[Listener]:
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@contextmanager
def _webhook(api: httpx.Client, listener: Listener, *events: str) -> Iterator[str]:
    """Its signing secret."""
    answer = api.post("/webhooks", json={"endpoint": listener.url, "events": list(events)})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    try:
        yield made["signing_secret"]
    finally:
        assert api.delete(f"/webhooks/{made['id']}").status_code == 200


def _events(listener: Listener, about: str, *wanted: str) -> dict[str, dict[str, Any]]:
    """What was taken about the address by its type, when all of `wanted` is there. They come in any order."""

    def found() -> dict[str, dict[str, Any]] | None:
        some = [json.loads(body) for _, body, status in listener.about(about) if status == 200]
        by_type = {event["type"]: event for event in some}
        assert len(by_type) == len(some), "an event that was taken is not posted again"
        return by_type if by_type.keys() >= set(wanted) else None

    return wait_for(found, f"{wanted} about {about}")


def test_events_of_a_mail_arrive_signed(stack: Stack, api: httpx.Client) -> None:
    types = ("email.sent", "email.delivered", "email.bounced", "email.received")
    with _listening(Listener()) as listener, _webhook(api, listener, *types) as secret:
        sent = api.post(
            "/emails",
            json={
                "from": "hello@postroom.test",
                "to": ["t02-ok@example.com"],
                "subject": "Grüße",
                "text": "t",
                "tags": [{"name": "kind", "value": "story"}],
            },
        ).json()["id"]
        events = _events(listener, "t02-ok@example.com", "email.sent", "email.delivered")
        assert events.keys() == {"email.sent", "email.delivered"}
        for event in events.values():
            assert event["data"]["email_id"] == sent
            assert (event["data"]["subject"], event["data"]["tags"]) == ("Grüße", {"kind": "story"})
        api.post(
            "/emails",
            json={"from": "hello@postroom.test", "to": "550-t02@example.com", "subject": "s", "text": "t"},
        )
        bounced = _events(listener, "550-t02@example.com", "email.bounced")["email.bounced"]
        assert bounced["data"]["bounce"]["type"] == "Permanent"
        assert "550" in bounced["data"]["bounce"]["message"] + str(bounced["data"]["bounce"].get("diagnosticCode"))
        host, port = stack.dev["mx"].split(":")
        with smtplib.SMTP(host, int(port), timeout=60) as client:
            client.sendmail(
                "ann@example.com", ["t02-in@postroom.test"], "To: t02-in@postroom.test\r\nSubject: in\r\n\r\nhello\r\n"
            )
        received = _events(listener, "t02-in@postroom.test", "email.received")["email.received"]
        assert received["data"]["subject"] == "in"
        checker = Webhook(secret)
        ids = set()
        for headers, body, _ in listener.posts:
            checker.verify(body, headers)
            assert headers["svix-id"] == headers["webhook-id"]
            ids.add(headers["webhook-id"])
            with pytest.raises(WebhookVerificationError):
                checker.verify(body + b" ", headers)
        assert len(ids) == len(listener.posts), "an event that was taken is not posted again"
    assert secret not in stack.log("webhooks") + stack.log("api") + stack.output()


def test_a_listener_that_fails_gets_it_again_under_the_same_id(api: httpx.Client) -> None:
    with _listening(Listener(failures=2)) as listener, _webhook(api, listener, "email.delivered") as secret:
        api.post(
            "/emails", json={"from": "hello@postroom.test", "to": "t02-again@example.com", "subject": "s", "text": "t"}
        )
        _events(listener, "t02-again@example.com", "email.delivered")
        posts = listener.about("t02-again@example.com")
        assert [status for _, _, status in posts] == [503, 503, 200]
        assert len({headers["webhook-id"] for headers, _, _ in posts}) == 1
        assert len({body for _, body, _ in posts}) == 1
        for headers, body, _ in posts:
            Webhook(secret).verify(body, headers)


def test_a_deleted_webhook_hears_no_more(api: httpx.Client) -> None:
    with _listening(Listener()) as gone, _listening(Listener()) as kept, _webhook(api, kept, "email.delivered"):
        with _webhook(api, gone, "email.delivered"):
            pass
        api.post(
            "/emails", json={"from": "hello@postroom.test", "to": "t02-gone@example.com", "subject": "s", "text": "t"}
        )
        _events(kept, "t02-gone@example.com", "email.delivered")
        assert gone.about("t02-gone@example.com") == []
