"""Rows of the attack classes that the API stands against, each by its name (reliability A7, C1, C8)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest

from .harness import assert_error, email
from .test_receiving import Deliver, deliver  # noqa: F401

ENDS = {
    **{
        "CR": "\r",
        "LF": "\n",
        "CRLF": "\r\n",
        "NUL": "\0",
        "VT": "\x0b",
        "FF": "\x0c",
        "FS": "\x1c",
        "GS": "\x1d",
        "RS": "\x1e",
    },
    **{"NEL": "\x85", "LS": "\u2028", "PS": "\u2029"},
}
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "from": lambda evil: {"from": f"A{evil} <hello@postroom.test>"},
    "from address": lambda evil: {"from": f"hello@postroom.test{evil}"},
    "to": lambda evil: {"to": f"you@example.com{evil}"},
    "one of to": lambda evil: {"to": ["you@example.com", f"You{evil} <b@example.com>"]},
    "cc": lambda evil: {"cc": f"c{evil}@example.com"},
    "bcc": lambda evil: {"bcc": [f"b@example.com{evil}"]},
    "reply_to": lambda evil: {"reply_to": f"r@example.com{evil}"},
    "subject": lambda evil: {"subject": f"Hello{evil}"},
    "tag name": lambda evil: {"tags": [{"name": f"a{evil}", "value": "b"}]},
    "tag value": lambda evil: {"tags": [{"name": "a", "value": f"b{evil}"}]},
    "header name": lambda evil: {"headers": {f"X-A{evil}": "b"}},
    "header value": lambda evil: {"headers": {"X-A": f"b{evil}"}},
    "filename": lambda evil: {"attachments": [{"filename": f"a{evil}.txt", "content": "YQ=="}]},
    "content_id": lambda evil: {"attachments": [{"filename": "a.txt", "content": "YQ==", "content_id": f"i{evil}"}]},
    "content_type": lambda evil: {
        "attachments": [{"filename": "a.txt", "content": "YQ==", "content_type": f"a/b{evil}"}]
    },
}


@pytest.mark.parametrize("field", FIELDS)
async def test_c1_no_field_becomes_a_line_of_its_own(
    api: httpx.AsyncClient, admin: asyncpg.Connection, field: str
) -> None:
    for name, end in ENDS.items():
        answer = await api.post("/emails", json=email(**FIELDS[field](f"{end}Bcc: victim@elsewhere.example")))
        assert answer.status_code == 422, (name, answer.text)
        assert_error(answer, 422, "validation_error")
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0


@pytest.mark.parametrize("field", ["header name", "tag name", "from address", "to", "cc", "content_type"])
async def test_c1_percent_forms_are_no_line_ends_and_no_names(api: httpx.AsyncClient, field: str) -> None:
    answer = await api.post("/emails", json=email(**FIELDS[field]("%0d%0aBcc: victim@elsewhere.example")))
    assert answer.status_code == 422


async def test_a7_mail_from_anothers_domain_is_forbidden(
    api: httpx.AsyncClient,
    admin: asyncpg.Connection,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
) -> None:
    await make_domain(await make_org(), "bank.test")
    for sender in ("ceo@bank.test", "Postroom <ceo@bank.test>", "a@sub.postroom.test", "a@nowhere.test", "a@BANK.test"):
        assert (await api.post("/emails", json=email(**{"from": sender}))).status_code == 403, sender
        assert (await api.post("/emails/batch", json=[email(**{"from": sender})])).status_code == 403, sender
    # who is said to write besides is no way around it
    for name in ("From", "Sender", "Return-Path", "Resent-From"):
        answer = await api.post("/emails", json=email(headers={name: "ceo@bank.test"}))
        assert answer.status_code == 422, (name, answer.text)
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0


NAMES = [
    b"../../etc/passwd",
    b"..%2f..%2fetc%2fpasswd",
    b"=?utf-8?q?=2E=2E=2Fetc=2Fpasswd?=",
    b"C:\\\\windows\\\\win.ini",
    b"a\x00b.exe",
    b"n" * 300 + b".txt",
    b"",
    b"CON",
    b".htaccess",
    b'a.html\\"; filename=b',
    b"x\r\n Set-Cookie: a=b",
    "invoice\u202egpj.exe".encode(),
]


async def test_c8_a_file_is_handed_out_as_a_file_whatever_its_name(
    api: httpx.AsyncClient,
    org: UUID,
    deliver: Deliver,  # noqa: F811
) -> None:
    parts = [
        b'--b\r\nContent-Type: text/html; name="%b"\r\nContent-Disposition: attachment; filename="%b"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n%b\r\n" % (name, name, base64.b64encode(b"<script>%d</script>" % n))
        for n, name in enumerate(NAMES)
    ]
    id_ = await deliver(org, b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"".join(parts) + b"--b--\r\n")
    listed = (await api.get(f"/emails/receiving/{id_}/attachments")).json()["data"]
    assert len(listed) == len(NAMES)
    for n, each in enumerate(listed):
        assert UUID(each["id"])
        name = each["filename"] or ""
        assert not set(name) & set("/\\\0\r\n\u202e"), name
        assert len(name.encode()) <= 255
        link = urlsplit(each["download_url"])
        assert link.path.rpartition("/")[2] == each["id"], "no name is part of a path"
        got = await api.get(f"{link.path}?{link.query}", headers={"authorization": ""})
        assert got.content == b"<script>%d</script>" % n
        disposition = got.headers["content-disposition"]
        assert disposition.startswith("attachment; filename=")
        assert not set(disposition) & set("/\\"), disposition
        assert "set-cookie" not in got.headers
        assert (got.headers["x-content-type-options"], got.headers["content-security-policy"]) == (
            *("nosniff", "default-src 'none'; sandbox"),
        )
