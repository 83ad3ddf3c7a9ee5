"""Whoever has a foreign id learns nothing by it (reliability.md D4): every route of /openapi.json × every kind of id.

A stranger's answer for an id of ours is, to the last character, the answer for an id that nobody has; and ours is untouched.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any, TypeAlias
from uuid import uuid4

import httpx
import pytest

from conformance.test_openapi import BODIES
from conformance.world import EMAIL, World, made

# Of the whole installation, in catch mode only: the catcher's mail and the lab's zones.
OF_THE_INSTALLATION = ("/v1/caught", "/v1/lab")
NOBODY = {"msg_": "msg_" + "1" * 27, "@": "nobody-at-all@example.com"}
UNKNOWN = str(uuid4())
Answer: TypeAlias = tuple[int, bytes, str | None]
"""Status, body, type."""


def _unknown(id_: str) -> str:
    """Of the same kind: its answer is the same for all ids of that kind."""
    return next((nobody for mark, nobody in NOBODY.items() if mark in id_), UNKNOWN)


def _paths(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, of_path in document["paths"].items()
        for method in of_path
        if "{" in path and not path.startswith(OF_THE_INSTALLATION)
    ]


def _fill(path: str, values: tuple[str, ...]) -> str:
    found = iter(values)
    return re.sub(r"\{[^}]+\}", lambda _: next(found), path)


def _told(answer: httpx.Response) -> Answer:
    return answer.status_code, answer.content, answer.headers.get("content-type")


@pytest.fixture(scope="module")
def mine(there: World) -> dict[str, str]:
    """One of each kind, and what else serves as an id."""
    return {**there.ids, "address": "never@example.com"}


def test_a_foreign_id_is_an_unknown_one(there: World, mine: dict[str, str]) -> None:
    document = there.api.get("/openapi.json").json()
    theirs = _of_the_stranger(there)
    asked, told_apart = 0, []
    for method, path in _paths(document):
        places = path.count("{")
        kinds = sorted(set(mine.values()))
        # every place ours; and a thing of ours within one of the stranger's own
        tries = (
            list(product(kinds, repeat=places)) if places == 1 else [*product(kinds, kinds), *product(theirs, kinds)]
        )
        body = BODIES.get((method, path))
        of_nobody: dict[tuple[str, ...], Answer] = {}
        for values in tries:
            answer = there.stranger.request(method, _fill(path, values), json=body)
            unknown = tuple(value if value in theirs else _unknown(value) for value in values)
            if unknown not in of_nobody:
                of_nobody[unknown] = _told(there.stranger.request(method, _fill(path, unknown), json=body))
            asked += 1
            if _told(answer) != of_nobody[unknown] or answer.status_code < 400:
                told_apart.append((method, path, values, answer.status_code, answer.text[:200]))
            assert answer.status_code < 500, (method, path, answer.text)
    print(f"{asked} requests over {len(_paths(document))} operations")
    assert told_apart == []


def _of_the_stranger(there: World) -> list[str]:
    return [
        made(there.stranger, "/webhooks", {"endpoint": there.hook, "events": ["email.sent"]})["id"],
        made(there.stranger, "/domains", {"name": "stranger.example"})["id"],
    ]


def test_ids_in_bodies_and_queries(there: World) -> None:
    ids, stranger = there.ids, there.stranger
    key = stranger.post("/api-keys", json={"name": "k", "permission": "sending_access", "domain_id": ids["domain"]})
    assert key.status_code == 404
    many = stranger.post("/api-keys", json={"name": "k", "permission": "sending_access", "domain_ids": [ids["domain"]]})
    assert many.status_code == 404
    stranger.post("/suppressions/batch/remove", json={"ids": [ids["suppression"]]})
    stranger.post("/suppressions/batch/remove", json={"emails": ["never@example.com"]})
    for name, kind in (("email_id", "email"), ("domain_id", "domain")):
        query = {name: ids[kind], "metrics": "sent,delivered"}
        counted = stranger.get("/emails/metrics", params=query)
        assert counted.status_code in (200, 404)
        if counted.status_code == 200:
            assert set(counted.json()["totals"].values()) == {0}
    assert stranger.post("/emails", json=EMAIL).status_code == 403, "a domain of ours sends for nobody else"


def test_and_ours_is_untouched(there: World) -> None:
    """After all that the stranger tried."""
    ids = there.ids
    for path in (
        f"/emails/{ids['email']}",
        f"/emails/{ids['scheduled']}",
        f"/domains/{ids['domain']}",
        f"/webhooks/{ids['webhook']}",
        f"/suppressions/{ids['suppression']}",
        f"/emails/receiving/{ids['received']}",
        f"/logs/{ids['log']}",
        f"/v1/routes/{ids['inbound_route']}",
    ):
        assert there.api.get(path).status_code == 200, path
    assert there.api.get(f"/emails/{ids['scheduled']}").json()["last_event"] == "scheduled"
    assert there.api.get(f"/webhooks/{ids['webhook']}").json()["status"] == "enabled"
    assert ids["api_key"] in [key["id"] for key in there.api.get("/api-keys").json()["data"]]
