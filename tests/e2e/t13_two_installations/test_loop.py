"""Two installations that forward to each other: mail stops going round, and lies in a mailbox (reliability A13)."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from stack import Stack, free_base, wait_for

NAMES = ("t13-one.test", "t13-two.test")


def _api(stack: Stack) -> httpx.Client:
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    return httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60)


def _receives(api: httpx.Client, name: str) -> None:
    domain = api.post("/domains", json={"name": name, "capabilities": {"receiving": "enabled"}}).json()
    records = [
        {key: record[key] for key in ("name", "type", "value", "priority") if key in record}
        for record in domain["records"]
    ]
    assert api.put(f"/v1/lab/dns/{name}", json={"records": records}).status_code == 200
    api.post(f"/domains/{domain['id']}/verify")
    wait_for(lambda: api.get(f"/domains/{domain['id']}").json()["status"] == "verified", f"{name} is verified")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[Stack, httpx.Client], ...]]:
    """Each gives all its mail to the other's MX."""
    folder = tmp_path_factory.mktemp("t13")
    bases = free_base(), free_base()
    with ExitStack() as running:
        stacks = []
        for own, other in ((0, 1), (1, 0)):
            env = {
                "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
                "POSTROOM_QUEUE__SWEEP_SECONDS": "1",
                "POSTROOM_OUTBOUND__ROUTE": "smarthost",
                "POSTROOM_OUTBOUND__SMARTHOST_HOST": "127.0.0.1",
                "POSTROOM_OUTBOUND__SMARTHOST_PORT": str(bases[other] + 1),
                "POSTROOM_OUTBOUND__SMARTHOST_TLS": "none",
            }
            stacks.append(Stack(folder / str(own), bases[own], env=env))
        with ThreadPoolExecutor() as threads:
            for stack in threads.map(Stack.__enter__, stacks):
                running.push(stack)
        clients = [running.enter_context(_api(stack)) for stack in stacks]
        for api, name in zip(clients, NAMES, strict=True):
            _receives(api, name)
        yield tuple(zip(stacks, clients, strict=True))


def _arrivals(api: httpx.Client, subject: str) -> list[dict[str, Any]]:
    found = api.get("/v1/arrivals", params={"limit": 100}).json()["data"]
    return [api.get(f"/v1/arrivals/{each['id']}").json() for each in found if each["subject"] == subject]


@pytest.mark.parametrize(
    ("match", "subject"), [({"recipient": "round@*"}, "one address"), ({"recipient": "*"}, "every address")]
)
def test_a13_what_two_installations_forward_to_each_other_stops(
    both: tuple[tuple[Stack, httpx.Client], ...], match: dict[str, Any], subject: str
) -> None:
    (one, api_one), (_, api_two) = both
    made = [
        (api, api.post("/v1/routes", json={"name": "there", "match": match, "actions": [action]}).json()["id"])
        for api, action in (
            (api_one, {"type": "forward", "to": [f"round@{NAMES[1]}"]}),
            (api_two, {"type": "forward", "to": [f"round@{NAMES[0]}"]}),
        )
    ]
    host, port = one.dev["mx"].split(":")
    raw = f"From: <a@sender.example>\r\nTo: <round@{NAMES[0]}>\r\nSubject: {subject}\r\nMessage-ID: <{len(subject)}@x>\r\n\r\nx\r\n"
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        smtp.sendmail("a@sender.example", [f"round@{NAMES[0]}"], raw)

    def ended() -> list[dict[str, Any]]:
        """The one that goes no further."""
        arrived = [each for api in (api_one, api_two) for each in _arrivals(api, subject)]
        return [each for each in arrived if any("that is a loop" in one["reason"] for one in each["decisions"])]

    (last,) = wait_for(ended, "somebody finds that it goes round")
    assert last["state"] == "routed"
    assert [each["mailbox"] for each in last["messages"]] == [f"round@{NAMES[0]}"], "it is lost by nobody"
    counts = [len(_arrivals(api, subject)) for api in (api_one, api_two)]
    assert counts == [2, 1], "once around"
    for api, route_id in made:
        api.delete(f"/v1/routes/{route_id}")
