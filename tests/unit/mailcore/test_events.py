from __future__ import annotations

import base64
import hashlib
import hmac
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
import resend
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

import suites
from mailcore import events
from mailcore.events import Event
from mailcore.kit.errors import Invalid
from mailcore.kit.ids import uuid7

AT = datetime(2026, 2, 22, 23, 41, 12, 126_900, UTC)
ID = UUID("56761188-7520-42d8-8898-ff6fc54ce618")
EMAIL = {
    "id": str(ID),
    "created_at": "2026-02-22T23:41:11.89+00:00",
    "message_id": "<1@x.dev>",
    "from_": "Acme <a@x.dev>",
    "to_": ["d@y.dev", "e@y.dev"],
    "subject": "Hello",
    "tags": [{"name": "category", "value": "confirm"}],
}


def test_every_type_of_the_sdk_can_be_asked_for() -> None:
    from typing import get_args

    from resend.webhooks._webhook import WebhookEvent

    assert frozenset(get_args(WebhookEvent)) == events.TYPES
    assert len(events.TYPES) == 37


def test_an_email_event() -> None:
    event = Event(uuid7(), "email.delivered", AT, ["d@y.dev"])
    assert events.payload(event, EMAIL) == {
        "type": "email.delivered",
        "created_at": "2026-02-22T23:41:12.126Z",
        "data": {
            "email_id": str(ID),
            "created_at": "2026-02-22T23:41:11.890Z",
            "message_id": "<1@x.dev>",
            "from": "Acme <a@x.dev>",
            "to": ["d@y.dev"],
            "subject": "Hello",
            "tags": {"category": "confirm"},
        },
    }


def test_an_email_without_tags_has_no_tags_and_all_recipients_when_none_are_named() -> None:
    data = events.payload(Event(uuid7(), "email.sent", AT), EMAIL | {"tags": None})["data"]
    assert "tags" not in data
    assert data["to"] == ["d@y.dev", "e@y.dev"]


def test_a_bounce_says_why() -> None:
    detail = events.bounce("user unknown", ["smtp; 550 5.1.1 user unknown"], sub_type="NoEmail")
    event = Event(uuid7(), "email.bounced", AT, ["d@y.dev"], detail | {"possible_duplicate": True})
    data = events.payload(event, EMAIL)["data"]
    assert data["bounce"] == {
        "type": "Permanent",
        "subType": "NoEmail",
        "message": "user unknown",
        "diagnosticCode": ["smtp; 550 5.1.1 user unknown"],
    }
    assert data["possible_duplicate"] is True


def test_a_received_email() -> None:
    row: dict[str, Any] = {
        "id": str(ID),
        "created_at": "2026-02-22T23:41:11.894+00:00",
        "mail_from": "bounces@example.com",
        "rcpt_to": ["forwarded@example.com"],
        "summary": {
            "from": "sender@example.com",
            "to": ["support@x.dev"],
            "cc": [],
            "subject": "Hi",
            "message_id": "<111@mail>",
            "attachments": [
                {
                    "id": "2a0c",
                    "filename": "avatar.png",
                    "content_type": "image/png",
                    "content_disposition": "inline",
                    "content_id": "img001",
                    "size": 4096,
                }
            ],
        },
    }
    assert events.payload(Event(uuid7(), "email.received", AT), row) == {
        "type": "email.received",
        "created_at": "2026-02-22T23:41:12.126Z",
        "data": {
            "email_id": str(ID),
            "created_at": "2026-02-22T23:41:11.894Z",
            "from": "sender@example.com",
            "to": ["support@x.dev"],
            "bcc": [],
            "cc": [],
            "received_for": ["forwarded@example.com"],
            "message_id": "<111@mail>",
            "subject": "Hi",
            "attachments": [
                {
                    "id": "2a0c",
                    "filename": "avatar.png",
                    "content_type": "image/png",
                    "content_disposition": "inline",
                    "content_id": "img001",
                }
            ],
        },
    }
    data = events.payload(Event(uuid7(), "email.received", AT), row | {"summary": None})["data"]
    assert (data["from"], data["to"], data["attachments"]) == ("bounces@example.com", [], [])


def test_a_received_email_with_its_body() -> None:
    content = {"html": None, "text": "hi", "headers": {"subject": "Hi"}, "body_omitted": False}
    row: dict[str, Any] = {"id": str(ID), "created_at": AT, "mail_from": "a@b.c", "rcpt_to": ["d@e.f"], "summary": None}
    without = events.payload(Event(uuid7(), "email.received", AT), row)["data"]
    assert events.payload(Event(uuid7(), "email.received", AT), row | {"content": content})["data"] == without | content
    assert (without["subject"], without["message_id"]) == ("", "")


def test_mailits_signature() -> None:
    wanted = hmac.new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b"1614265330.{}", hashlib.sha256).hexdigest()
    assert events.sign_hex(SECRET, NOW, b"{}") == wanted


def test_a_domain_as_it_was() -> None:
    row = {"id": str(ID), "name": "x.dev", "status": "verified", "created_at": AT, "region": "us-east-1"}
    event = Event(uuid7(), "domain.updated", AT)
    assert set(events.payload(event, row)["data"]) == {"id", "name", "status", "created_at", "region", "records"}
    detail = {"id": str(ID), "name": "x.dev", "status": "pending", "records": [{"record": "SPF"}]}
    data = events.payload(Event(uuid7(), "domain.updated", AT, detail=detail), row)["data"]
    assert (data["status"], data["records"]) == ("pending", [{"record": "SPF"}])
    assert events.payload(Event(uuid7(), "domain.deleted", AT, detail=detail), None)["data"] == detail


@pytest.mark.parametrize("type_", sorted(events.TYPES))
def test_what_is_gone_still_makes_an_event(type_: str) -> None:
    assert orjson.loads(events.body(Event(uuid7(), type_, AT, ["a@b.c"]), None))["type"] == type_


@given(st.uuids(), st.uuids())
def test_a_message_id_depends_on_event_and_endpoint_alone(event_id: UUID, webhook_id: UUID) -> None:
    id_ = events.message_id(event_id, webhook_id)
    assert id_ == events.message_id(UUID(str(event_id)), UUID(str(webhook_id)))
    assert len(id_) == 31 and id_.startswith("msg_") and id_[4:].isalnum() and id_.isascii()
    if event_id != webhook_id:
        assert id_ != events.message_id(webhook_id, event_id)


@given(st.uuids(), st.uuids())
def test_an_id_leads_back_to_its_event_at_its_own_endpoint_alone(event_id: UUID, webhook_id: UUID) -> None:
    message, attempt = events.message_id(event_id, webhook_id), events.attempt_id(event_id, webhook_id)
    assert events.is_message_id(message) and not events.is_message_id(attempt)
    assert events.event_of(message, webhook_id) == event_id == events.attempt_of(attempt, webhook_id)
    assert events.event_of(attempt, webhook_id) is events.attempt_of(message, webhook_id) is None
    other = UUID(int=webhook_id.int ^ 1)
    assert events.event_of(message, other) is None
    last = "1" if message[-1] == "0" else "0"
    assert events.event_of(message[:-1] + last, webhook_id) is None


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_ids(text: str) -> None:
    for prefix in ("", "msg_", "atmpt_"):
        events.is_message_id(prefix + text)
        assert events.event_of(prefix + text, ID) is None
        assert events.attempt_of(prefix + text, ID) is None
    assert events.event_of("msg_" + "z" * 27, ID) is None  # more than 160 bits


def test_ids_sort_by_time() -> None:
    ids = [events.message_id(uuid7(1_700_000_000_000 + n * 1000), ID) for n in range(50)]
    assert ids == sorted(ids)


# ---- signatures ------------------------------------------------------------------------------------------------------

SECRET = events.read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
MESSAGE, NOW, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
GOOD = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def _headers(family: str = "webhook", **changes: str | None) -> dict[str, str]:
    values = {"id": MESSAGE, "timestamp": str(NOW), "signature": GOOD} | changes
    return {f"{family}-{name}": value for name, value in values.items() if value is not None}


def test_the_vectors_of_the_suite_are_signed_alike() -> None:
    for vector in suites.vectors("webhook-signature-vectors")["sign"]:
        secret = events.read_secret(vector["secret"])
        signature = events.sign(secret, vector["id"], vector["timestamp"], vector["payload"].encode())
        assert signature == vector["signature"]


_CASES: dict[str, tuple[dict[str, str], float]] = {
    "missing webhook-id": (_headers(id=None), NOW),
    "missing webhook-timestamp": (_headers(timestamp=None), NOW),
    'non-numeric timestamp "hello"': (_headers(timestamp="hello"), NOW),
    "timestamp 5 min + 1 s in the past": (_headers(), NOW + 301),
    "timestamp 5 min + 1 s in the future": (_headers(), NOW - 301),
    "missing webhook-signature": (_headers(signature=None), NOW),
    "wrong last byte of signature": (_headers(signature=GOOD[:-2] + "F="), NOW),
    'partial signature "v1,"': (_headers(signature="v1,"), NOW),
    "first 8 chars of signature only": (_headers(signature=GOOD[:8]), NOW),
    'signature of unknown version "v2,.."': (_headers(signature="v2" + GOOD[2:]), NOW),
    "several space-delimited signatures, one valid": (_headers(signature=f"v1,AAAA v2,xx {GOOD} v1,zz"), NOW),
    "headers under svix-* names": (_headers("svix"), NOW),
    "headers under webhook-* names": (_headers("Webhook"), NOW),
    "timestamp within 5 min": (_headers(), NOW + 299),
}
_SECRETS = {
    "empty secret": "",
    'secret "whsec_" only': "whsec_",
    "secret without whsec_ prefix": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


def test_the_rules_of_the_suite() -> None:
    rules = suites.vectors("webhook-signature-vectors")["verify_rules"]
    assert {rule["case"] for rule in rules} == {*_CASES, *_SECRETS}
    for rule in rules:
        headers, now = _CASES.get(rule["case"], (_headers(), NOW))

        def check(case: str = rule["case"], headers: dict[str, str] = headers, now: float = now) -> str:
            secret = events.read_secret(_SECRETS[case]) if case in _SECRETS else SECRET
            return events.verify(secret, headers, BODY, now=now)

        if rule["expect"] == "accept":
            assert check() == MESSAGE
        else:
            with pytest.raises(Invalid):
                check()


@pytest.mark.parametrize("changed", [{"id": "msg_x"}, {"timestamp": str(NOW + 1)}, {"id": "ü"}, {"signature": "ü,ü"}])
def test_a_signature_covers_id_time_and_body(changed: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        events.verify(SECRET, _headers(**changed), BODY, now=NOW)
    with pytest.raises(Invalid):
        events.verify(SECRET, _headers(), BODY + b" ", now=NOW)
    with pytest.raises(Invalid):
        events.verify(b"", _headers(), BODY, now=NOW)


@given(st.text(max_size=50), st.text(max_size=20), st.text(max_size=50))
def test_no_header_breaks_the_verifier(id_: str, at: str, signature: str) -> None:
    with pytest.raises(Invalid):
        events.verify(SECRET, _headers(id=id_, timestamp=at, signature=signature), BODY, now=NOW)


def test_both_libraries_accept_what_we_sign() -> None:
    secret = events.new_secret()
    shown = events.show_secret(secret)
    assert len(base64.b64decode(shown.removeprefix("whsec_"), validate=True)) == 24
    now = int(time.time())
    id_ = events.message_id(uuid7(), uuid7())
    body = events.body(Event(uuid7(), "email.sent", AT), EMAIL | {"subject": "Grüße 🎉"})
    signature = events.sign(secret, id_, now, body)
    headers = {"webhook-id": id_, "webhook-timestamp": str(now), "webhook-signature": signature}
    assert standardwebhooks.Webhook(shown).verify(body, headers)["data"]["subject"] == "Grüße 🎉"
    parsed: Any = resend.Webhooks.verify(
        {
            "payload": body.decode(),
            "headers": {"id": id_, "timestamp": str(now), "signature": signature},
            "webhook_secret": shown,
        }
    )
    assert parsed["type"] == "email.sent"
    assert events.verify(secret, headers, body, now=now) == id_
