"""What the tests of the API say often."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx

PATIENT = 60.0
"""Seconds that a batch waits for the last of its mails: what it claimed is routed when `route` returns, on a busy machine too."""
MakeKey = Callable[..., Awaitable[str]]
MakeClient = Callable[..., Awaitable[httpx.AsyncClient]]


def email(**changed: Any) -> dict[str, Any]:
    """A good one; a field set to `...` is left out."""
    good: dict[str, Any] = {
        "from": "Acme <hello@postroom.test>",
        "to": "you@example.com",
        "subject": "Hello",
        "html": "<p>Hi</p>",
    }
    return {name: value for name, value in {**good, **changed}.items() if value is not ...}


def assert_error(answer: httpx.Response, status: int, name: str, *words: str) -> None:
    assert "application/json" in answer.headers["content-type"]
    body = answer.json()
    assert (answer.status_code, body["name"], set(body)) == (status, name, {"statusCode", "name", "message"}), body
    assert body["statusCode"] == status
    for word in words:
        assert word in body["message"], body["message"]
