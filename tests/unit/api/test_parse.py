"""The pure parts of sending: no database, no HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from api.emails.attachments import Remote, encoded_size, parse_attachments
from api.emails.batch import parse_batch
from api.emails.parse import parse
from api.errors import ApiError, from_exception, from_mail_error
from mailcore.flow.submit import NewAttachment
from mailcore.kit.errors import Conflict, Invalid, MailError, NotFound, Refused, Unavailable

GOOD = {"from": "Acme <Hello@EXAMPLE.com>", "to": "you@example.org", "subject": "s", "text": "t"}


def test_parse_normalises_what_it_needs_and_keeps_what_was_given() -> None:
    parsed = parse({**GOOD, "to": ["Ünï <b@München.example>", "c@d.example"], "cc": "c@D.example", "extra": object()})
    email = parsed.email
    assert (email.from_, email.domain) == ("Acme <Hello@EXAMPLE.com>", "example.com")
    assert email.to == ["Ünï <b@München.example>", "c@d.example"]
    assert [str(address) for address in email.recipients] == [
        "b@xn--mnchen-3ya.example",
        "c@d.example",
        "c@d.example",
    ]
    assert (email.cc, email.bcc, email.reply_to, email.headers, email.tags) == (["c@D.example"], None, None, None, None)


def test_scheduled_at_is_utc_and_bounded() -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    local = at.astimezone().isoformat()
    assert parse({**GOOD, "scheduled_at": local}).email.scheduled_at == at
    naive = at.replace(tzinfo=None).isoformat()
    assert parse({**GOOD, "scheduled_at": naive}).email.scheduled_at == at
    with pytest.raises(ApiError, match="30 days"):
        parse({**GOOD, "scheduled_at": (at + timedelta(days=60)).isoformat()})
    parsed = parse({**GOOD, "scheduled_at": "2001-01-01T00:00:00Z"})
    assert (parsed.email.scheduled_at, parsed.scheduled_text) == (None, "2001-01-01T00:00:00Z")


def test_reply_to_is_given_once() -> None:
    with pytest.raises(Invalid, match="twice"):
        parse({**GOOD, "reply_to": "a@b.example", "headers": {"Reply-To": "c@d.example"}})
    assert parse({**GOOD, "headers": {"Reply-To": "c@d.example"}}).email.headers == {"Reply-To": "c@d.example"}


def test_attachments() -> None:
    parts = parse_attachments(
        [
            {"content": "aGk=", "filename": "photo.PNG", "inline_content_id": "logo"},
            {"content": [0, 255], "filename": False},
            {"path": "https://files.example/a/report.pdf?sig=1#x", "content_type": "application/pdf"},
        ]
    )
    first, second, third = parts
    assert first == NewAttachment(b"hi", "image/png", "photo.PNG", "logo", "inline")
    assert second == NewAttachment(b"\x00\xff", "application/octet-stream", None, None, "attachment")
    assert isinstance(third, Remote)
    assert (third.filename, third.url) == ("report.pdf", "https://files.example/a/report.pdf?sig=1#x")
    assert third.fetched(b"%PDF", "text/html").content_type == "application/pdf"
    assert [encoded_size(part) for part in parts] == [4, 4, 0]


def test_batch_counts_from_the_request() -> None:
    items: list[Any] = [GOOD, {**GOOD, "to": None}, GOOD, 7]
    with pytest.raises(ApiError, match="`to`"):
        parse_batch(items, permissive=False)
    batch = parse_batch(items, permissive=True)
    assert batch.positions == [0, 2]
    batch.drop(1, Refused("not verified"))
    assert batch.positions == [0]
    assert [error["index"] for error in batch.errors] == [1, 3, 2]
    assert b'"index":1' in batch.answer([]).split(b'"index":2')[0]
    with pytest.raises(Unavailable):  # what is temporary is no verdict on an item
        batch.drop(0, Unavailable("later"))


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (Invalid("x"), 422, "validation_error"),
        (Invalid("x", name="missing_required_field"), 422, "missing_required_field"),
        (NotFound("x"), 404, "not_found"),
        (Conflict("x"), 409, "resource_locked"),
        (Conflict("x", name="invalid_idempotent_request"), 409, "invalid_idempotent_request"),
        (Refused("x"), 403, "validation_error"),
        (Unavailable("x"), 503, "service_unavailable"),
    ],
)
def test_mail_errors_have_one_status_each(error: MailError, status: int, name: str) -> None:
    mapped = from_mail_error(error)
    assert (mapped.status, mapped.name, mapped.message) == (status, name, "x")


def test_nothing_unexpected_is_told() -> None:
    for error in (MailError("inner words"), RuntimeError("inner words"), KeyError("inner words")):
        mapped = from_exception(error)
        assert (mapped.status, mapped.name) == (500, "application_error")
        assert "inner" not in mapped.message
    assert from_exception(HTTPException(404)).name == "not_found"


def test_scheduled_at_in_english() -> None:
    parsed = parse({**GOOD, "scheduled_at": "in 2 hours"})
    assert parsed.email.scheduled_at is not None
    assert timedelta(hours=1, minutes=59) < parsed.email.scheduled_at - datetime.now(UTC) <= timedelta(hours=2)
    assert parsed.scheduled_text == "in 2 hours"
    for wrong, words in (
        ("soon", "ISO 8601"),
        ("tomorrow at 9", "several ways"),
        ("in 31 days", "30 days"),
        (5, "string"),
    ):
        with pytest.raises(ApiError, match=words) as caught:
            parse({**GOOD, "scheduled_at": wrong})
        assert "`scheduled_at`" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "switched"),
    [
        ({}, (None, None)),
        ({"tracking": {"opens": False}}, (False, None)),
        ({"tracking": {"opens": True, "clicks": False}}, (True, False)),
        ({"open_tracking": False, "click_tracking": True}, (False, True)),
        ({"tracking": {"clicks": True}, "open_tracking": False}, (False, True)),
        ({"tracking": None, "open_tracking": None}, (None, None)),
    ],
)
def test_tracking_is_switched_per_email(said: dict[str, Any], switched: tuple[bool | None, bool | None]) -> None:
    email = parse({**GOOD, **said}).email
    assert (email.track_opens, email.track_clicks) == switched


@pytest.mark.parametrize(
    "said",
    [
        {"tracking": True},
        {"tracking": {"opens": 1}},
        {"click_tracking": "yes"},
        {"tracking": {"opens": True}, "open_tracking": False},
    ],
)
def test_tracking_is_switched_by_true_and_false(said: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"[Tt]racking"):
        parse({**GOOD, **said})
