"""A domain that signs with a key of its owner's, and then asks for the next ones; by the DNS that the stack answers from."""

from __future__ import annotations

import re
from typing import Any

import dkim
import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stack import Stack, wait_for

NAME = "t09-keys.example"


def publish(api: httpx.Client, domain: dict[str, Any]) -> None:
    records = [
        {key: record[key] for key in ("name", "type", "value", "priority") if key in record}
        for record in domain["records"]
    ]
    assert api.put(f"/v1/lab/dns/{NAME}", json={"records": records}).status_code == 200


def selectors(raw: bytes) -> set[str]:
    found = re.findall(rb"(?m)^DKIM-Signature:(?:[^\r]|\r\n[ \t])*?\bs=([a-z0-9.-]+);", raw)
    return {each.decode() for each in found}


def test_a_key_of_ones_own_and_the_one_after_it(stack: Stack, api: httpx.Client) -> None:
    made = api.post("/domains", json={"name": NAME}).json()
    keys = f"/v1/domains/{made['id']}/dkim-keys"
    own = generate_private_key(65537, 2048)
    pem = own.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    brought = api.post(f"{keys}/import", json={"selector": "20261121", "private_key": pem})
    assert brought.status_code == 201, brought.text
    assert brought.json()["state"] == "active", "of a domain that has never sent it is used at once"

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"/domains/{made['id']}").json()
        return found

    publish(api, shown())
    api.post(f"/domains/{made['id']}/verify")
    wait_for(lambda: shown()["status"] == "verified", "verified")

    def sent(to: str) -> bytes:
        mail = {"from": f"us@{NAME}", "to": to, "subject": "keys", "text": "hello"}
        assert api.post("/emails", json=mail).status_code == 200
        return stack.raw(wait_for(lambda: stack.caught(to=to), f"the mail to {to}")[0])

    raw = sent("t09-own@example.com")
    assert selectors(raw) == {"20261121", "postroom-ed25519"}
    record = brought.json()["record"]
    txt = {f"{record['fqdn']}.".encode(): record["value"].encode()}
    assert dkim.verify(raw, dnsfunc=lambda name, timeout=5: txt.get(name))

    following = api.post(f"{keys}/rotate").json()["data"]
    assert [each["state"] for each in following] == ["pending", "pending"]
    publish(api, shown())
    api.post(f"/domains/{made['id']}/verify")
    wait_for(lambda: {api.get(f"{keys}/{each['id']}").json()["state"] for each in following} == {"published"}, "seen")
    still = selectors(sent("t09-next@example.com"))
    assert still == {"20261121", "postroom-ed25519"}, "not before the records are everywhere"
    domain = shown()
    assert domain["status"] == "verified"
    assert {each["status"] for each in domain["records"]} == {"verified"}
