"""/openapi.json against what runs: every operation, asked well and badly, answers with a status and a body it documents."""

from __future__ import annotations

import json
import re
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import httpx
import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from conformance.world import dmarc_report, told_about_dmarc, told_about_tls
from stack import Stack, wait_for

Document: TypeAlias = dict[str, Any]
OPEN = {"/health", "/healthz", "/readyz"}
EMAIL = {"from": "Acme <hello@postroom.test>", "to": ["you@example.com"], "subject": "s", "html": "<p>h</p>"}
PRIVATE_KEY = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
CLAIMED = "openapi-claimed.example"
"""Verified by another organization."""
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/emails"): EMAIL | {"tags": [{"name": "a", "value": "b"}], "cc": "c@example.com"},
    ("POST", "/emails/batch"): [EMAIL],
    ("PATCH", "/emails/{id}"): {"scheduled_at": "in 1 hour"},
    ("POST", "/emails/{id}/share"): {"expires_in": "1 hour"},
    ("POST", "/domains"): {"name": "openapi.example"},
    ("PATCH", "/domains/{id}"): {"open_tracking": True, "tls": "enforced"},
    ("POST", "/domains/claim"): {"name": CLAIMED},
    ("POST", "/v1/domains/{id}/dkim-keys"): {"algorithm": "ed25519-sha256", "selector": "made"},
    ("POST", "/v1/domains/{id}/dkim-keys/import"): {"selector": "brought", "private_key": PRIVATE_KEY},
    ("POST", "/v1/domains/{id}/dkim-keys/rotate"): {"algorithms": ["rsa-sha256", "ed25519-sha256"]},
    ("PATCH", "/v1/domains/{id}/dkim-keys/rotation"): {"every_days": 90},
    ("POST", "/v1/domains/{id}/dkim-keys/{key_id}/retire"): {"at_once": True},
    ("POST", "/api-keys"): {"name": "openapi", "permission": "sending_access"},
    ("PATCH", "/api-keys/{id}"): {"name": "renamed", "status": "inactive"},
    ("POST", "/webhooks"): {"endpoint": "http://127.0.0.1:9999/hook", "events": ["email.opened"]},
    ("PATCH", "/webhooks/{webhook_id}"): {"status": "enabled"},
    ("POST", "/suppressions"): {"email": "openapi@example.com"},
    ("POST", "/suppressions/batch/add"): {"emails": ["openapi-1@example.com", "openapi-2@example.com"]},
    ("POST", "/suppressions/batch/remove"): {"emails": ["openapi-1@example.com"]},
    ("PUT", "/v1/lab/dns/{zone}"): {"records": [{"name": "@", "type": "A", "value": "192.0.2.1"}]},
    ("POST", "/auth/register"): {
        "email": "openapi@example.com",
        "password": "good enough for this",
        "name": "Open",
        "team_name": "Api",
    },
    ("POST", "/auth/login"): {"email": "openapi@example.com", "password": "good enough for this"},
    ("POST", "/v1/auth/session"): {"email": "openapi@example.com", "password": "good enough for this"},
    ("POST", "/v1/auth/password"): {"old_password": "good enough for this", "new_password": "better than the old"},
    ("POST", "/v1/auth/organization"): {"organization_id": str(UUID(int=1))},
    ("PATCH", "/v1/domains/{id}/tls"): {"mode": None},
    ("POST", "/v1/dmarc/reports"): {"content": dmarc_report("postroom.test", "openapi")},
    ("POST", "/v1/pools"): {"name": "openapi", "mail": ["broadcast"], "domains": ["openapi.example"]},
    ("PATCH", "/v1/pools/{id}"): {"name": "renamed", "domains": ["openapi-4.example"]},
    ("POST", "/v1/sources"): {"pool": "openapi", "ipv4": "203.0.113.7", "ehlo_name": "out.example.com"},
    ("PATCH", "/v1/sources/{id}"): {"ehlo_name": "out8.example.com", "step": 2, "paused": True},
    ("POST", "/v1/warmups"): {"domain": "openapi.example", "schedule": [50, 100]},
    ("PATCH", "/v1/warmups/{id}"): {"step": 2, "warm": False, "paused": True},
    ("POST", "/v1/domains/{id}/pause"): {"reason": "for the test"},
    ("POST", "/v1/ways"): {"name": "openapi", "kind": "resend", "settings": {"api_key": "re_x"}},
    ("PATCH", "/v1/ways/{way_id}"): {"enabled": False, "settings": {"signing_secret": "whsec_b3BlbmFwaQ=="}},
    ("POST", "/v1/routes-out"): {"ways": ["default"], "tag": {"name": "openapi"}},
    ("POST", "/v1/routes"): {"name": "openapi", "match": {"from": "*@noise.example"}, "actions": [{"type": "drop"}]},
    ("PATCH", "/v1/routes/{route_id}"): {"match": {"subject": {"regex": "^offer"}}, "except": None, "stop": False},
    ("PUT", "/v1/routes/order"): {"ids": []},
    ("POST", "/v1/routes/explain"): {"raw": "Subject: x\r\n\r\ny\r\n", "rcpt_to": ["t@postroom.test"]},
    ("PATCH", "/v1/routes-out/{route_id}"): {"ways": ["default"]},
    ("POST", "/v1/installation/ways"): {"name": "openapi", "kind": "smarthost", "settings": {"host": "127.0.0.1"}},
    ("PATCH", "/v1/installation/ways/{way_id}"): {"name": "renamed"},
    ("POST", "/v1/installation/routes-out"): {"ways": ["default"], "tag": {"name": "openapi", "value": "x"}},
    ("PATCH", "/v1/installation/routes-out/{route_id}"): {"ways": ["default"]},
    ("PATCH", "/v1/sites/{site_id}"): {
        "limits": {"connections": 5, "per_minute": 600},
        "rules": [{"match": "slow down", "do": "slow", "for": "10m"}],
    },
    ("POST", "/v1/sites/{site_id}/suspend"): {"seconds": 60, "reason": "for the test", "dry_run": True},
    ("POST", "/v1/sites/{site_id}/resume"): {"dry_run": True},
    ("POST", "/v1/queue/hold"): {"seconds": 60, "dry_run": True},
    ("POST", "/v1/queue/resume"): {"dry_run": True},
    ("POST", "/v1/queue/flush"): {"domain": "openapi.example"},
    ("POST", "/v1/queue/reroute"): {"domain": "openapi.example", "way_id": None},
    ("POST", "/v1/queue/bounce"): {"recipient": "nobody@openapi.example", "class": "broadcast"},
    ("POST", "/v1/queue/purge"): {"from_domain": "openapi.example", "older_than_seconds": 60},
    ("POST", "/v1/mailboxes"): {"address": "openapi@postroom.test", "display_name": "Open"},
    ("PATCH", "/v1/mailboxes/{mailbox_id}"): {"display_name": "Renamed"},
    ("POST", "/v1/addresses"): {"address": "sales@postroom.test", "kind": "alias", "targets": ["ann@postroom.test"]},
    ("PATCH", "/v1/addresses/{id}"): {"targets": ["ann@postroom.test", "bob@postroom.test"]},
    ("PATCH", "/v1/domains/{id}/receiving"): {"catch_all": "create", "greylisting": True},
    ("PATCH", "/v1/messages/{message_id}"): {"read": True, "starred": False},
    ("POST", "/v1/messages/flags"): {"ids": [str(UUID(int=1))], "read": True},
    ("POST", "/v1/messages/{message_id}/report"): {"spam": True},
    ("POST", "/v1/blocked-senders"): {"sender": "@openapi.example"},
    ("POST", "/v1/accounts"): {"host": "127.0.0.1", "port": 993, "username": "u", "password": "p"},
}
"""A good body each; that of an account names no server, so 422 is its best answer here."""
QUERIES = {"/v1/trace": {"to": "you@example.com"}, "/v1/messages/search": {"q": "from:ann is:unread"}}
"""Where something must be asked for."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    env = {
        "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
        "POSTROOM_IMAP_SYNC__PROCESSES": "0",
        "POSTROOM_WEBHOOKS__PROCESSES": "0",
        "POSTROOM_AUTH__REGISTRATION_ENABLED": "true",
        "POSTROOM_AUTH__ATTEMPTS": "100",
    }
    with Stack(tmp_path_factory.mktemp("openapi") / "stack", env=env) as stack:
        host, port = stack.dev["mx"].split(":")
        headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
        with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
            hold = {"name": "hold", "match": {"recipient": "held*"}, "actions": [{"type": "quarantine"}]}
            assert client.post("/v1/routes", json=hold).status_code == 201
        raw = "From: Ann <ann@example.com>\r\nTo: t@postroom.test\r\nContent-Disposition: attachment; filename=a\r\n\r\nx\r\n"
        with smtplib.SMTP(host, int(port), timeout=60) as smtp:
            for to in ("held-1@postroom.test", "held-2@postroom.test", "t@postroom.test"):
                smtp.sendmail("ann@example.com", [to], raw)
        with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
            _verified_by_another(stack, client, CLAIMED)
            yield client


def _verified_by_another(stack: Stack, api: httpx.Client, name: str) -> None:
    command = [sys.executable, "-m", "postroom", "org", "create", "Other", "--json", "--data", str(stack.data)]
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    headers = {"authorization": f"Bearer {json.loads(made.stdout)['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as other:
        domain = other.post("/domains", json={"name": name}).json()
        records = [
            {key: record[key] for key in ("name", "type", "value", "priority") if key in record}
            for record in domain["records"]
        ]
        assert api.put(f"/v1/lab/dns/{name}", json={"records": records}).status_code == 200
        other.post(f"/domains/{domain['id']}/verify")
        wait_for(lambda: other.get(f"/domains/{domain['id']}").json()["status"] == "verified", f"{name} is verified")


@pytest.fixture(scope="module")
def document(api: httpx.Client) -> Document:
    found: Document = api.get("/openapi.json").json()
    return found


@pytest.fixture(scope="module")
def ids(api: httpx.Client) -> dict[str, str]:
    """The first segment of a route (behind /v1) → an id that it finds."""

    def newest(path: str) -> str:
        return wait_for(lambda: api.get(path).json()["data"], path)[0]["id"]  # type: ignore[no-any-return]

    webhook = api.post("/webhooks", json={"endpoint": "http://127.0.0.1:9999/hook", "events": ["*"]}).json()["id"]
    file = {"filename": "a.txt", "content": "aGk="}
    email = api.post("/emails", json=EMAIL | {"attachments": [file]}).json()["id"]
    wait_for(lambda: api.get(f"/v1/emails/{email}/deliveries").json()["data"][0]["attempts"], "an attempt")
    arrival = newest("/emails/receiving")
    domain = api.post("/domains", json={"name": "openapi-2.example"}).json()["id"]
    wait_for(lambda: len(api.get("/v1/quarantine").json()["data"]) == 2, "two mails are held")
    held = [each["id"] for each in api.get("/v1/quarantine").json()["data"]]
    return {
        "quarantine": held[0],
        "released": held[1],
        "routes": api.get("/v1/routes").json()["data"][0]["id"],
        "emails": email,
        "sent_attachment": api.get(f"/emails/{email}/attachments").json()["data"][0]["id"],
        "scheduled": api.post("/emails", json=EMAIL | {"scheduled_at": "in 2 hours"}).json()["id"],
        "emails/receiving": arrival,
        "inbound/emails": arrival,
        "attachment": api.get(f"/emails/receiving/{arrival}/attachments").json()["data"][0]["id"],
        "arrivals": arrival,
        "messages": newest("/v1/messages"),
        "threads": newest("/v1/threads"),
        "blocked-senders": api.post("/v1/blocked-senders", json={"sender": "openapi@example.com"}).json()["id"],
        "mailboxes": api.post("/v1/mailboxes", json={"address": "gone-soon@postroom.test"}).json()["id"],
        "addresses": api.post(
            "/v1/addresses", json=BODIES["POST", "/v1/addresses"] | {"address": "gone@postroom.test"}
        ).json()["id"],
        "caught": newest("/v1/caught"),
        "domains": domain,
        "dkim_key": newest(f"/v1/domains/{domain}/dkim-keys"),
        "tls/reports": told_about_tls(api, domain, "openapi-2.example"),
        "dmarc/reports": told_about_dmarc(api, "openapi-2.example"),
        "claim": api.post("/domains/claim", json={"name": CLAIMED}).json()["domain_id"],
        "logs": newest("/logs"),
        "api-keys": api.post("/api-keys", json={"name": "gone soon"}).json()["id"],
        "webhooks": webhook,
        "webhook_event": newest(f"/webhooks/{webhook}/events"),
        "suppressions": api.post("/suppressions", json={"email": "openapi-3@example.com"}).json()["id"],
        **{
            f"{of}{kind}": api.post(f"/v1/{of}{kind}", json=body).json()["id"]
            for of in ("", "installation/")
            for kind, body in (
                ("ways", BODIES["POST", "/v1/ways"]),
                ("routes-out", {"ways": ["default"], "tag": {"name": "read"}}),
            )
        },
        "sites": newest("/v1/sites"),
        "queue/orders": api.post("/v1/queue/flush", json={"domain": "openapi.example"}).json()["order"]["id"],
        "accounts": str(uuid4()),
        "alarms": _alarm(api),
        "pools": api.post("/v1/pools", json={"name": "p", "domains": ["openapi-2.example"]}).json()["id"],
        "sources": _source(api),
        "warmups": api.post("/v1/warmups", json={"domain": "openapi-2.example"}).json()["id"],
        "oauth/grants": str(uuid4()),
        "lab/dns": "openapi.test",
    }


def _alarm(api: httpx.Client) -> str:
    domain = api.post("/domains", json={"name": "openapi-4.example"}).json()["id"]
    return str(api.post(f"/v1/domains/{domain}/pause", json={"reason": "for the test"}).json()["id"])


def _source(api: httpx.Client) -> str:
    api.post("/v1/pools", json={"name": "q", "domains": ["openapi-3.example"]})
    made = api.post("/v1/sources", json={"pool": "q", "ipv4": "203.0.113.8", "ehlo_name": "out8.example.com"})
    return str(made.json()["id"])


def _operations(document: Document) -> list[tuple[str, str, Document]]:
    found = [(m.upper(), path, operation) for path, of in document["paths"].items() for m, operation in of.items()]
    return sorted(found, key=lambda each: each[0] == "DELETE")  # what is deleted was read before


def _fill(path: str, ids: dict[str, str]) -> str:
    segment = "claim" if "}/claim" in path else path.removeprefix("/v1/").strip("/").partition("/{")[0]
    if path in ("/emails/{id}", "/emails/{id}/cancel"):
        segment = "scheduled"
    if path.endswith("/release"):
        segment = "released"  # the other one is deleted later
    attachment = "sent_attachment" if path.startswith("/emails/{id}") else "attachment"
    path = path.replace("{attachment_id}", ids[attachment]).replace("{event_id}", ids["webhook_event"])
    path = path.replace("{key_id}", ids["dkim_key"])
    return re.sub(r"\{[^}]+\}", lambda _: ids[segment], path)


def _check(document: Document, operation: Document, answer: httpx.Response) -> None:
    asked = f"{answer.request.method} {answer.request.url.path} → {answer.status_code}"
    documented = operation["responses"].get(str(answer.status_code))
    assert documented is not None, f"{asked} is not documented: {answer.text[:300]}"
    content = documented.get("content", {})
    kind = answer.headers["content-type"].partition(";")[0]
    if kind != "application/json":
        assert kind in content, f"{asked}: {kind} is not documented"
        return
    schema = {"components": document["components"], **content["application/json"]["schema"]}
    try:
        jsonschema.Draft202012Validator(schema).validate(answer.json())
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{asked}: {error.message} at {error.json_path}") from None
    if answer.status_code >= 400:
        assert set(answer.json()) == {"statusCode", "name", "message"}, asked
        assert answer.json()["statusCode"] == answer.status_code, asked


def test_what_is_asked_well_answers_as_documented(api: httpx.Client, document: Document, ids: dict[str, str]) -> None:
    for method, path, operation in _operations(document):
        if path.startswith("/v1/auth/"):
            continue  # of people: next test
        answer = api.request(method, _fill(path, ids), json=BODIES.get((method, path)), params=QUERIES.get(path))
        _check(document, operation, answer)
        if "accounts" not in path and path != "/oauth/grants/{id}":
            assert answer.status_code < 300, (method, path, answer.text)


def test_what_people_ask_well_answers_as_documented(api: httpx.Client, document: Document) -> None:
    """Each as somebody who has just registered."""
    for number, (method, path, operation) in enumerate(_operations(document)):
        if not path.startswith("/v1/auth/"):
            continue
        login = BODIES["POST", "/auth/login"] | {"email": f"person-{number}@example.com"}
        me = api.post("/auth/register", json=BODIES["POST", "/auth/register"] | login).json()["token"]
        headers = {"authorization": f"Bearer {me}", "x-requested-with": "tests"}
        here = api.get("/v1/auth/me", headers=headers).json()
        body = BODIES.get((method, path))
        if path == "/v1/auth/session":
            body = login
        elif path == "/v1/auth/organization":
            body = {"organization_id": here["organization"]["id"]}
        answer = api.request(method, path.replace("{session_id}", here["session"]["id"]), headers=headers, json=body)
        _check(document, operation, answer)
        assert answer.status_code < 300, (method, path, answer.text)


def test_what_is_asked_badly_answers_as_documented(api: httpx.Client, document: Document) -> None:
    others = ("attachment", "sent_attachment", "scheduled", "webhook_event", "claim", "dkim_key", "released")
    unknown = {name: str(uuid4()) for name in (*others, *_segments(document))}
    nonsense = dict.fromkeys(unknown, "nonsense")
    for method, path, operation in _operations(document):
        if path in OPEN or (method, path) == ("DELETE", "/v1/caught"):
            continue
        known = _fill(path, unknown)
        answers = [
            api.request(method, known, headers={"authorization": ""}),
            api.request(method, known, headers={"authorization": "Bearer re_wrong"}),
            api.request(method, known, json=BODIES.get((method, path))) if "{" in path and "lab" not in path else None,
            api.request(method, _fill(path, nonsense)) if "{" in path else None,
            api.request(method, known, params={"limit": "0", "after": "x", "door": "\0"}) if method == "GET" else None,
        ]
        if "requestBody" in operation:
            answers += [
                api.request(method, known, content=body, headers={"content-type": "application/json"})
                for body in (
                    b"",
                    b"{",
                    b"[" * 100_000,
                    b"null",
                    b"[]",
                    b'{"name":"\\ud800"}',
                    b'{"a":1e400}',
                    b"x" * 61_000_000,
                )
            ]
            answers += [api.request(method, known, json=wrong) for wrong in _wrong(BODIES[method, path])]
        for answer in answers:
            if answer is not None:
                _check(document, operation, answer)
                assert answer.status_code != 500, (method, path, answer.text)


def test_clashes_answer_as_documented(api: httpx.Client, document: Document) -> None:
    """What only a second request meets: an idempotency key with another body, a name that is taken, a domain not verified."""
    send = document["paths"]["/emails"]["post"]
    key = {"idempotency-key": "openapi"}
    assert api.post("/emails", json=EMAIL, headers=key).status_code == 200
    clash = api.post("/emails", json=EMAIL | {"subject": "other"}, headers=key)
    assert clash.status_code == 409
    _check(document, send, clash)
    for path in ("/emails", "/emails/batch"):
        foreign = EMAIL | {"from": "a@unknown.example"}
        refused = api.post(path, json=[foreign] if path.endswith("batch") else foreign)
        assert refused.status_code == 403
        _check(document, document["paths"][path]["post"], refused)
    taken = api.post("/domains", json={"name": "postroom.test"})
    assert taken.status_code == 403
    _check(document, document["paths"]["/domains"]["post"], taken)
    no_domain = api.post("/api-keys", json={"name": "k", "permission": "sending_access", "domain_id": str(uuid4())})
    assert no_domain.status_code == 404
    _check(document, document["paths"]["/api-keys"]["post"], no_domain)


def _segments(document: Document) -> set[str]:
    return {path.removeprefix("/v1/").strip("/").partition("/{")[0] for path in document["paths"]}


def _wrong(body: Any) -> Iterator[Any]:
    """The good body with each of its values replaced by one of another type."""
    for value in (None, True, 10**19, 1.5, "", "x" * 100_000, [], {}, [None], {"a": {"b": []}}):
        yield value
        if isinstance(body, dict):
            for name in body:
                yield body | {name: value}
                if isinstance(body[name], list) and body[name] and isinstance(body[name][0], dict):
                    yield from (body | {name: [body[name][0] | {inner: value}]} for inner in body[name][0])
        else:
            yield from ([body[0] | {name: value}] for name in body[0])
