"""Two organizations on one installation: no list shows the second one what is the first one's, and it can use none of it.

Every route with every kind of id: tests/conformance/test_idor.py.
"""

from __future__ import annotations

import json
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stack import Stack, wait_for

OPEN = {"/health", "/healthz", "/readyz"}
SHARED = {"/v1/caught", "/v1/caught/{id}/raw"}
"""Catch mode is for trying: one catcher for the whole installation (docs/local-stack.md)."""


@pytest.fixture(scope="module")
def other(stack: Stack) -> Iterator[httpx.Client]:
    """A program with the key of a second organization."""
    command = [sys.executable, "-m", "postroom", "org", "create", "Second", "--json", "--data", str(stack.data)]
    made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    headers = {"authorization": f"Bearer {json.loads(made.stdout)['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def objects(stack: Stack, api: httpx.Client) -> dict[str, str]:
    """The first segment of a route (behind /v1) → an id of the first organization's that it would find."""
    text = {"from": "hello@postroom.test", "to": "550-t06@example.com", "subject": "t06 secret", "text": "t06 secret"}
    host, port = stack.dev["mx"].split(":")
    raw = "Message-ID: <t06@example.com>\r\nContent-Disposition: attachment; filename=a.bin\r\n\r\nt06 secret\r\n"
    with smtplib.SMTP(host, int(port), timeout=60) as client:
        client.sendmail("ann@example.com", ["t06@postroom.test"], raw)

    def received() -> str | None:
        mails = api.get("/emails/receiving").json()["data"]
        return next((mail["id"] for mail in mails if mail["message_id"] == "<t06@example.com>"), None)

    arrival = wait_for(received, "the mail is routed")
    endpoint = {"endpoint": "http://127.0.0.1:9999/t06-secret", "events": ["email.opened"]}
    return {
        "emails": api.post("/emails", json=text).json()["id"],
        "emails/receiving": arrival,
        "attachment": api.get(f"/emails/receiving/{arrival}/attachments").json()["data"][0]["id"],
        "arrivals": arrival,
        "messages": api.get(f"/v1/arrivals/{arrival}").json()["messages"][0]["id"],
        "domains": next(one["id"] for one in api.get("/domains").json()["data"] if one["name"] == "postroom.test"),
        "api-keys": api.post("/api-keys", json={"name": "t06 secret"}).json()["id"],
        "webhooks": api.post("/webhooks", json=endpoint).json()["id"],
        "accounts": str(uuid4()),  # none: an account needs an IMAP server (tests/integration/imap has one)
    }


def _operations(api: httpx.Client) -> list[tuple[str, str]]:
    paths: dict[str, Any] = api.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, operations in paths.items() for method in operations]


def test_no_list_shows_a_foreign_object(api: httpx.Client, other: httpx.Client, objects: dict[str, str]) -> None:
    lists = [path for method, path in _operations(api) if method == "GET" and "{" not in path]
    lists = [path for path in lists if path not in OPEN | SHARED]
    assert len(lists) >= 8
    for path in lists:
        for query in ({}, {"limit": "100"}, {"after": objects["emails"]}, {"before": objects["messages"]}):
            answer = other.get(path, params=query)
            if answer.status_code == 403:  # for people, not keys; or for who operates the installation
                told = answer.json()["message"]
                assert path.startswith("/v1/auth/") or "whole installation" in told, (path, answer.text)
                continue
            assert answer.status_code in (200, 422), (path, answer.text)
            if path != "/logs":  # a stranger's own calls, with what it asked for
                assert not [id_ for id_ in objects.values() if id_ in answer.text], path
            assert "t06 secret" not in answer.text
            if path not in ("/api-keys", "/metrics", "/logs"):  # its own first key stands there, its own days and calls
                assert answer.json().get("data", []) == []


def test_what_is_the_others_cannot_be_used(api: httpx.Client, other: httpx.Client, objects: dict[str, str]) -> None:
    email = {"from": "hello@postroom.test", "to": "t06-stolen@example.com", "subject": "s", "text": "t"}
    assert other.post("/emails", json=email).status_code == 403
    assert other.post("/emails/batch", json=[email]).status_code == 403
    asked = {"name": "k", "permission": "sending_access", "domain_id": objects["domains"]}
    unknown = other.post("/api-keys", json=asked | {"domain_id": str(uuid4())})
    foreign = other.post("/api-keys", json=asked)
    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    assert api.get("/v1/caught", params={"to": "t06-stolen@example.com"}).json()["data"] == []
    # still there, and unchanged
    assert api.get(f"/webhooks/{objects['webhooks']}").json()["status"] == "enabled"
    assert api.get(f"/domains/{objects['domains']}").json()["status"] == "verified"


def test_an_idempotency_key_belongs_to_its_organization(api: httpx.Client, other: httpx.Client) -> None:
    key = {"idempotency-key": "t06"}
    email = {"from": "hello@postroom.test", "to": "t06-once@example.com", "subject": "s", "text": "t"}
    first = api.post("/emails", json=email, headers=key)
    assert api.post("/emails", json=email, headers=key).json() == first.json()
    assert other.post("/emails", json=email, headers=key).status_code == 403
