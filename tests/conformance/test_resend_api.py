"""Every operation of the Resend API, by both lists of them: it answers, and what it answers is what the official file says.

What belongs to a later half answers 404 in the right shape. An operation that is in a list and not here fails the test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import httpx
import pytest

from conformance import resend_spec
from conformance.resend_spec import Operation
from conformance.world import EMAIL, World, made

Call: TypeAlias = Callable[[World], httpx.Response]

spec = resend_spec.document()
OFFICIAL = resend_spec.operations(spec)
ALL = sorted(set(OFFICIAL) | resend_spec.appendix())
NOW = [operation for operation in ALL if not resend_spec.is_later(operation)]
ZERO = "00000000-0000-7000-8000-000000000000"


def _get(path: str, **query: str) -> Call:
    return lambda there: there.api.get(path.format(**there.ids), params=query)


def _post(path: str, body: Any = None, **headers: str) -> Call:
    return lambda there: there.api.post(path.format(**there.ids), json=body, headers=headers)


def _patch(path: str, body: Any) -> Call:
    return lambda there: there.api.patch(path.format(**there.ids), json=body)


def _delete_new(path: str, body: Any) -> Call:
    """Makes one and removes it again."""
    return lambda there: there.api.delete(f"{path}/{there.made(path, body)['id']}")


def _cancel(there: World) -> httpx.Response:
    id_ = there.made("/emails", {**EMAIL, "scheduled_at": "in 2 days"})["id"]
    return there.api.post(f"/emails/{id_}/cancel")


def _new_webhook(there: World) -> httpx.Response:
    return there.api.post("/webhooks", json={"endpoint": there.hook, "events": ["email.opened"]})


def _claim(there: World) -> httpx.Response:
    """Of a domain that the stranger has verified."""
    there.verified_by(there.stranger, "claimed.example")
    return there.api.post("/domains/claim", json={"name": "claimed.example"})


def _claimed(call: Callable[[httpx.Client, str], httpx.Response]) -> Call:
    def asked(there: World) -> httpx.Response:
        if "claim" not in there.ids:
            there.verified_by(there.stranger, "claimed-2.example")
            there.ids["claim"] = made(there.api, "/domains/claim", {"name": "claimed-2.example"})["domain_id"]
        return call(there.api, f"/domains/{there.ids['claim']}/claim")

    return asked


def _revoke_grant(there: World) -> httpx.Response:
    """Nothing here gives out grants, so that none can be revoked: the right answer is the 404."""
    answer = there.api.delete(f"/oauth/grants/{ZERO}")
    assert (answer.status_code, answer.json()["message"]) == (
        404,
        "OAuth grant not found. Perhaps it was already revoked?",
    )
    return answer


CALLS: dict[Operation, Call] = {
    ("POST", "/emails"): _post("/emails", EMAIL),
    ("GET", "/emails"): _get("/emails", limit="5"),
    ("GET", "/emails/{}"): _get("/emails/{email}"),
    ("PATCH", "/emails/{}"): _patch("/emails/{scheduled}", {"scheduled_at": "tomorrow at 9am"}),
    ("POST", "/emails/{}/cancel"): _cancel,
    ("POST", "/emails/{}/share"): _post("/emails/{email}/share", {"expires_in": "10m"}),
    ("POST", "/emails/batch"): _post("/emails/batch", [EMAIL, EMAIL], **{"x-batch-validation": "permissive"}),
    ("GET", "/emails/{}/attachments"): _get("/emails/{email}/attachments"),
    ("GET", "/emails/{}/attachments/{}"): _get("/emails/{email}/attachments/{sent_attachment}"),
    ("GET", "/emails/metrics"): _get("/emails/metrics", metrics="sent,delivered,open_rate", dimensions="period,domain"),
    ("GET", "/emails/receiving"): _get("/emails/receiving"),
    ("GET", "/emails/receiving/{}"): _get("/emails/receiving/{received}", html_format="cid"),
    ("GET", "/emails/receiving/{}/attachments"): _get("/emails/receiving/{received}/attachments"),
    ("GET", "/emails/receiving/{}/attachments/{}"): _get("/emails/receiving/{received}/attachments/{attachment}"),
    ("POST", "/domains"): _post("/domains", {"name": "walk.example", "capabilities": {"receiving": "enabled"}}),
    ("GET", "/domains"): _get("/domains"),
    ("GET", "/domains/{}"): _get("/domains/{domain}"),
    ("PATCH", "/domains/{}"): _patch("/domains/{domain}", {"open_tracking": True, "tls": "enforced"}),
    ("DELETE", "/domains/{}"): _delete_new("/domains", {"name": "gone.example"}),
    ("POST", "/domains/{}/verify"): _post("/domains/{domain}/verify"),
    ("POST", "/domains/claim"): _claim,
    ("GET", "/domains/{}/claim"): _claimed(lambda api, path: api.get(path)),
    ("POST", "/domains/{}/claim/verify"): _claimed(lambda api, path: api.post(path + "/verify")),
    ("POST", "/api-keys"): _post("/api-keys", {"name": "walk"}),
    ("GET", "/api-keys"): _get("/api-keys"),
    ("PATCH", "/api-keys/{}"): _patch("/api-keys/{api_key}", {"name": "walked"}),
    ("DELETE", "/api-keys/{}"): _delete_new("/api-keys", {"name": "gone"}),
    ("GET", "/usage"): _get("/usage"),
    ("GET", "/logs"): _get("/logs", limit="3"),
    ("GET", "/logs/{}"): _get("/logs/{log}"),
    ("GET", "/oauth/grants"): _get("/oauth/grants"),
    ("DELETE", "/oauth/grants/{}"): _revoke_grant,
    ("POST", "/suppressions"): _post("/suppressions", {"email": "walk@example.com"}),
    ("GET", "/suppressions"): _get("/suppressions", origin="manual"),
    ("GET", "/suppressions/{}"): _get("/suppressions/never%40example.com"),
    ("DELETE", "/suppressions/{}"): _delete_new("/suppressions", {"email": "gone@example.com"}),
    ("POST", "/suppressions/batch/add"): _post(
        "/suppressions/batch/add", {"emails": ["a@example.com", "b@example.com"]}
    ),
    ("POST", "/suppressions/batch/remove"): _post("/suppressions/batch/remove", {"emails": ["a@example.com"]}),
    ("POST", "/webhooks"): _new_webhook,
    ("GET", "/webhooks"): _get("/webhooks"),
    ("GET", "/webhooks/{}"): _get("/webhooks/{webhook}"),
    ("PATCH", "/webhooks/{}"): _patch("/webhooks/{webhook}", {"events": ["email.sent", "email.bounced"]}),
    ("DELETE", "/webhooks/{}"): lambda there: there.api.delete(f"/webhooks/{_new_webhook(there).json()['id']}"),
    ("POST", "/webhooks/{}/signing-secret/rotate"): lambda there: there.api.post(
        f"/webhooks/{_new_webhook(there).json()['id']}/signing-secret/rotate"
    ),
    ("GET", "/webhooks/{}/events"): _get("/webhooks/{webhook}/events"),
    ("GET", "/webhooks/{}/events/{}"): _get("/webhooks/{webhook}/events/{event}"),
    ("POST", "/webhooks/{}/events/{}/replay"): _post("/webhooks/{webhook}/events/{event}/replay"),
    ("GET", "/webhooks/{}/events/{}/attempts"): _get("/webhooks/{webhook}/events/{event}/attempts"),
}

# What resend.md says of operations that the official file does not have: the keys of the answer.
KEYS: dict[Operation, set[str]] = {
    ("GET", "/usage"): {"object", "emails", "contacts", "segments", "broadcasts", "domains", "rate_limit"}
    | {"ai_credits", "automation_runs"},
    ("POST", "/webhooks/{}/signing-secret/rotate"): {"object", "id", "signing_secret"},
    ("GET", "/webhooks/{}/events"): {"object", "has_more", "data"},
    ("GET", "/webhooks/{}/events/{}"): {"object", "id", "type", "created_at", "status", "next_attempt_at", "payload"},
    ("POST", "/webhooks/{}/events/{}/replay"): {"object", "id"},
    ("GET", "/webhooks/{}/events/{}/attempts"): {"object", "has_more", "data"},
}
# Where the file gives a schema that is not the answer's own (§4.1, §4.4, §4.6): the keys that are; types go by the file.
OWN_KEYS: dict[Operation, set[str]] = {
    ("GET", "/emails"): {"object", "has_more", "data"},
    ("GET", "/emails/metrics"): {
        "object",
        "start_date",
        "end_date",
        "metrics",
        "dimensions",
        "granularity",
        "totals",
        "data",
    },
    ("PATCH", "/emails/{}"): {"object", "id"},
    ("POST", "/emails/{}/cancel"): {"object", "id"},
}
LATER_OR_NOTHING = {("DELETE", "/oauth/grants/{}")}


def test_nothing_is_forgotten() -> None:
    assert set(CALLS) == set(NOW)


@pytest.mark.parametrize("operation", NOW, ids=" ".join)
def test_it_answers_as_the_official_file_says(there: World, operation: Operation) -> None:
    answer = CALLS[operation](there)
    if operation in LATER_OR_NOTHING:
        return
    assert answer.status_code < 300, answer.text
    body = answer.json()
    assert "http_headers" not in body
    assert body.get("statusCode") is None
    where = " ".join(operation)
    if operation in KEYS:
        assert KEYS[operation] <= set(body), where
        return
    responses = OFFICIAL[operation]["responses"]
    assert str(answer.status_code) in responses, (where, answer.status_code)
    schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
    if operation in OWN_KEYS:
        assert OWN_KEYS[operation] == set(body), where
    resend_spec.validate(spec, schema, body, where, complete=operation not in OWN_KEYS)


@pytest.mark.parametrize("operation", [each for each in ALL if resend_spec.is_later(each)], ids=" ".join)
def test_what_comes_later_is_not_found(there: World, operation: Operation) -> None:
    method, path = operation
    answer = there.api.request(method, path.replace("{}", ZERO), json={})
    assert answer.status_code == 404
    assert answer.json() == {
        "statusCode": 404,
        "name": "not_found",
        "message": "The requested endpoint does not exist.",
    }
