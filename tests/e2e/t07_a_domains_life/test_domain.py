"""A domain from its first record to its end, by the DNS that the stack itself answers from; and how one changes hands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dkim
import httpx
import pytest

from stack import Stack, wait_for

NAME = "t07.example"


@pytest.fixture(scope="module")
def other(stack: Stack) -> Iterator[httpx.Client]:
    """A program with the key of a second organization."""
    command = [sys.executable, "-m", "postroom", "org", "create", "T07", "--json", "--data", str(stack.data)]
    made = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    headers = {"authorization": f"Bearer {json.loads(made.stdout)['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
        yield client


def zone_of(domain: dict[str, Any]) -> list[dict[str, Any]]:
    """What its owner copies from the API into a DNS panel. (The panel adds the zone to relative names.)"""
    copied = []
    for record in domain["records"]:
        entry = {"name": record["name"], "type": record["type"], "value": record["value"]}
        if "priority" in record:
            entry["priority"] = record["priority"]
        copied.append(entry)
    return copied


def publish(api: httpx.Client, records: list[dict[str, Any]], name: str = NAME) -> None:
    answer = api.put(f"/v1/lab/dns/{name}", json={"records": records})
    assert answer.status_code == 200, answer.text


def ask(api: httpx.Client, id_: str) -> None:
    assert api.post(f"/domains/{id_}/verify").json() == {"object": "domain", "id": id_}


def until(api: httpx.Client, id_: str, **expected: Any) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found: dict[str, Any] = api.get(f"/domains/{id_}").json()
        return found if all(found[key] == value for key, value in expected.items()) else None

    return wait_for(there, f"{expected} of {id_}")


def advice(domain: dict[str, Any], topic: str) -> dict[str, Any] | None:
    return next((each for each in domain["advice"] if each["topic"] == topic), None)


def email(**changed: Any) -> dict[str, Any]:
    return {"from": f"Us <us@{NAME}>", "to": "t07@example.com", "subject": "t07", "text": "t07"} | changed


def test_from_the_first_record_to_the_last(stack: Stack, api: httpx.Client) -> None:
    made = api.post("/domains", json={"name": NAME}).json()
    assert made["status"] == "not_started"
    assert api.post("/emails", json=email()).status_code == 403
    ask(api, made["id"])
    assert until(api, made["id"], status="pending")["records"][0]["status"] == "pending"

    publish(api, zone_of(made))
    ask(api, made["id"])
    verified = until(api, made["id"], status="verified")
    assert {record["status"] for record in verified["records"]} == {"verified"}
    dmarc = advice(verified, "DMARC")
    assert dmarc is not None and dmarc["status"] == "missing"

    sent = api.post("/emails", json=email())
    assert sent.status_code == 200, sent.text
    (mail,) = wait_for(lambda: stack.caught(to="t07@example.com"), "the mail arrives")
    keys = {f"{record['name']}.{NAME}.".encode(): record["value"].encode() for record in made["records"]}
    assert dkim.verify(stack.raw(mail), dnsfunc=lambda name, timeout=5: keys.get(name)), "signed with what is published"

    # the records go: it says so, and goes on sending for 72 hours
    own = {"name": "@", "type": "TXT", "value": f"v=spf1 {'a ' * 11}-all"}
    publish(api, [own, {"name": "@", "type": "A", "value": "192.0.2.1"}])
    ask(api, made["id"])
    lost = wait_for(lambda: _with(api, made["id"], "temporary_failure"), "the loss is seen")
    assert lost["status"] == "verified"
    said = advice(lost, "Records")
    assert said is not None and f"MX send.{NAME}" in said["message"]
    spf = advice(lost, "SPF")
    assert spf is not None and "takes 11 DNS lookups" in spf["message"]
    assert api.post("/emails", json=email()).status_code == 200

    # and a DNS that does not answer changes nothing
    publish(api, zone_of(made))
    ask(api, made["id"])
    wait_for(lambda: _with(api, made["id"], "verified"), "the records are back")
    publish(api, [*zone_of(made)[1:], {"name": "send", "type": "MX", "value": "SERVFAIL"}])
    ask(api, made["id"])
    silent = wait_for(lambda: _with(api, made["id"], "temporary_failure"), "the silence is seen")
    assert silent["status"] == "verified"
    said = advice(silent, "Records")
    assert said is not None and "did not answer" in said["message"]

    assert api.delete(f"/domains/{made['id']}").status_code == 200
    wait_for(lambda: api.post("/emails", json=email()).status_code == 403, "it sends no more")


def _with(api: httpx.Client, id_: str, status: str) -> dict[str, Any] | None:
    found: dict[str, Any] = api.get(f"/domains/{id_}").json()
    return found if found["records"][0]["status"] == status else None


def test_a_domain_changes_hands(stack: Stack, api: httpx.Client, other: httpx.Client) -> None:
    name = "t07-moves.example"
    made = api.post("/domains", json={"name": name}).json()
    publish(api, zone_of(made), name)
    ask(api, made["id"])
    until(api, made["id"], status="verified")
    refused = other.post("/domains", json={"name": name})
    assert refused.status_code == 403 and "claim" in refused.json()["message"]
    claim = other.post("/domains/claim", json={"name": name}).json()
    mine = other.get(f"/domains/{claim['domain_id']}").json()
    path = f"/domains/{claim['domain_id']}/claim"
    proof = {"name": "@", "type": "TXT", "value": claim["record"]["value"]}
    publish(api, [*zone_of(made), proof], name)
    assert other.post(f"{path}/verify").json()["status"] == "pending"
    blocked = wait_for(lambda: _ended(other, path), "the claim is judged")
    assert (blocked["status"], blocked["blocked_reason"]) == ("blocked", "grace_period")

    # whoever has the DNS has the last word: without its records the first owner's domain goes, here because it lets go of it
    assert api.delete(f"/domains/{made['id']}").status_code == 200
    other.post(f"{path}/verify")
    wait_for(lambda: other.get(path).json()["status"] == "completed", "the claim is completed")
    publish(api, zone_of(mine), name)
    ask(other, mine["id"])
    until(other, mine["id"], status="verified")
    assert other.post("/emails", json=email(**{"from": f"us@{name}"})).status_code == 200
    assert api.post("/emails", json=email(**{"from": f"us@{name}"})).status_code == 403


def _ended(client: httpx.Client, path: str) -> dict[str, Any] | None:
    found: dict[str, Any] = client.get(path).json()
    return found if found["status"] != "pending" else None
