from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import dkim
import orjson
import pytest

from mailcore.blob.memory import MemoryBlobs
from mailcore.kit.ids import uuid7
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519, generate_rsa
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.contents import Content
from outbound.composer import SIGNATURE_STEP, Work, compose_one, fetch, signature_time

RSA, RSA_TXT = generate_rsa()
ED, _ = generate_ed25519()
KEYS = (SigningKey.load("s", "us.test", RSA), SigningKey.load("e", "us.test", ED))
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
NOW = AT.timestamp()


def content(**changes: Any) -> Content:
    values: dict[str, Any] = {
        "id": uuid7(),
        "org_id": uuid7(),
        "domain_id": uuid7(),
        "from_": "Us <us@us.test>",
        "to": ["you@you.test"],
        "cc": [],
        "reply_to": [],
        "subject": "Grüße",
        "html": "<p>Hi <b>there</b></p>",
        "text": None,
        "headers": {"X-Seq": "1"},
        "attachments": [],
        "body_blob": None,
        "message_id": "<1@us.test>",
        "created_at": AT,
        "scheduled_at": None,
    }
    return Content(**{**values, **changes})


def composed(work: Work) -> bytes:
    result = compose_one(work, NOW)
    assert isinstance(result, bytes)
    return result


def test_the_same_row_makes_the_same_bytes_and_they_verify() -> None:
    row = content()
    work = Work(row, row.html, row.text, (), KEYS)
    first = composed(work)
    assert first == composed(Work(row, row.html, row.text, (), KEYS))
    assert first.count(b"DKIM-Signature:") == 2
    # dkimpy looks at the first signature; Ed25519 has its own test beside the signer
    rsa_first = composed(Work(row, row.html, row.text, (), KEYS[:1]))
    assert dkim.verify(rsa_first, dnsfunc=lambda name, timeout=5: RSA_TXT.encode())
    assert b"Hi there" in first  # text made from the html
    assert b"\n" not in first.replace(b"\r\n", b"")


def test_an_empty_text_stays_away() -> None:
    row = content(text="")
    assert b"multipart" not in composed(Work(row, row.html, "", (), KEYS))


def test_without_keys_it_waits() -> None:
    result = compose_one(Work(content(), "x", None, (), ()), NOW)
    assert isinstance(result, Outcome)
    assert (result.result, result.rule) == (Result.DEFERRED, "no-signing-key")


def test_what_cannot_be_composed_fails_for_good() -> None:
    result = compose_one(Work(content(from_="not an address"), "x", None, (), KEYS), NOW)
    assert isinstance(result, Outcome)
    assert (result.result, result.rule) == (Result.FAILED, "invalid-message")


async def test_large_parts_are_fetched_and_a_missing_one_makes_the_mail_wait() -> None:
    blobs = MemoryBlobs()
    await blobs.put("body", orjson.dumps({"html": "<p>big</p>", "text": "big"}))
    await blobs.put("file", b"bytes")
    attachments = [
        {
            "id": "1",
            "filename": "a",
            "content_type": "text/plain",
            "content_id": None,
            "disposition": "attachment",
            "blob": "file",
        },
        {
            "id": "2",
            "filename": "b",
            "content_type": None,
            "content_id": None,
            "disposition": None,
            "content": base64.b64encode(b"in").decode(),
        },
    ]
    work = await fetch(content(html=None, body_blob="body", attachments=attachments), KEYS, blobs)
    assert isinstance(work, Work)
    assert (work.html, work.text) == ("<p>big</p>", "big")
    assert [(part.content, part.content_type, part.disposition) for part in work.parts] == [
        (b"bytes", "text/plain", "attachment"),
        (b"in", "application/octet-stream", "attachment"),
    ]
    missing = await fetch(content(body_blob="gone"), KEYS, blobs)
    assert isinstance(missing, Outcome)
    assert (missing.result, missing.rule) == (Result.DEFERRED, "content-unavailable")


RAW = b"Received: by us.test;\r\n Sat, 21 Nov 2026 12:00:00 +0000\r\nDKIM-Signature: v=1; d=other.test; b=x\r\nFrom: us@us.test\r\n"


@pytest.mark.parametrize("body", [b"", b"hello\r\n", b"\r\n.\r\n..\r\n"])
def test_a_raw_message_is_signed_and_stays_as_it_is(body: bytes) -> None:
    raw = RAW + b"\r\n" + body
    done = composed(Work(content(html=None, raw=raw), None, None, (), KEYS, raw))
    assert done.endswith(raw)
    assert done.count(b"DKIM-Signature:") == 3
    assert dkim.DKIM(done).verify(dnsfunc=lambda name, timeout=5: RSA_TXT.encode())
    assert composed(Work(content(html=None, raw=raw), None, None, (), KEYS, raw)) == done


async def test_a_large_raw_message_comes_from_the_blob_store() -> None:
    blobs = MemoryBlobs()
    await blobs.put("a/b", RAW)
    work = await fetch(content(html=None, raw_blob="a/b"), KEYS, blobs)
    assert isinstance(work, Work)
    assert work.raw == RAW
    missing = await fetch(content(html=None, raw_blob="a/c"), KEYS, blobs)
    assert isinstance(missing, Outcome) and missing.result is Result.DEFERRED


def test_a_mail_that_has_waited_is_signed_as_of_later() -> None:
    """A signature of a mail that was held back for a week would have expired before it was sent."""
    row = content()
    work = Work(row, row.html, row.text, (), KEYS)
    began = int(NOW)
    for waited, wanted in ((-60, 0), (0, 0), (SIGNATURE_STEP - 1, 0), (SIGNATURE_STEP, 1), (30 * 86_400, 10)):
        signed_at = signature_time(AT, NOW + waited)
        assert signed_at == began + wanted * SIGNATURE_STEP
        raw = compose_one(work, NOW + waited)
        assert isinstance(raw, bytes)
        assert raw.count(b"t=%d; x=%d;" % (signed_at, signed_at + 7 * 86_400)) == 2
        assert signed_at + 7 * 86_400 - (began + waited) >= 4 * 86_400, "good for four days more at least"
    assert compose_one(work, NOW) == compose_one(work, NOW + SIGNATURE_STEP - 1), "the same bytes at each try"
