"""A mail goes from the API to the catcher: signed, once a recipient, and nothing of the caller's becomes a header of its own."""

from __future__ import annotations

import base64
import os
import re
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import dkim
import dns.message
import dns.query
import dns.rdatatype
import httpx
import pytest

from stack import Stack, wait_for

FROM = "hello@postroom.test"


def _send(api: httpx.Client, **fields: Any) -> str:
    answer = api.post("/emails", json={"from": FROM, "subject": "s", **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def _caught(api: httpx.Client, to: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/v1/caught", params={"to": to}).json()["data"]
    return found


def _arrived(api: httpx.Client, to: str) -> tuple[bytes, EmailMessage]:
    mail = wait_for(lambda: _caught(api, to), f"mail to {to}")[0]
    raw = api.get(f"/v1/caught/{mail['id']}/raw").content
    read = BytesParser(policy=policy.default).parsebytes(raw)
    assert [part.defects for part in read.walk()] == [[] for _ in read.walk()]
    return raw, read


def _deliveries(api: httpx.Client, id_: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/v1/emails/{id_}/deliveries").json()["data"]
    return found


def _settled(api: httpx.Client, id_: str) -> list[dict[str, Any]]:
    """Its deliveries when each has one of the final states."""

    def settled() -> list[dict[str, Any]] | None:
        found = _deliveries(api, id_)
        return found if all(delivery["state"] not in ("queued", "leased") for delivery in found) else None

    return wait_for(settled, f"{id_} settled")


def _verifies(stack: Stack, raw: bytes) -> bool:
    host, _, port = stack.dev["dns"].rpartition(":")

    def txt(name: bytes | str, timeout: int = 5) -> bytes:
        query = dns.message.make_query(name.decode() if isinstance(name, bytes) else name, "TXT")
        answer = dns.query.udp_with_fallback(query, host, port=int(port), timeout=60)[0]
        found = [record for record in answer.answer if record.rdtype == dns.rdatatype.TXT]
        return b"".join(found[0][0].strings) if found else b""

    try:
        return bool(dkim.DKIM(raw).verify(dnsfunc=txt))
    except dkim.ValidationError:
        return False


def test_what_is_printed_can_be_opened(stack: Stack, api: httpx.Client) -> None:
    printed = set(re.findall(r"http://[^\s'\"]+", stack.output()))
    assert f"{stack.dev['api_url']}/v1/caught" in printed
    for url in printed:
        if url != stack.dev["api_url"]:  # the root is for the SDKs to put paths behind
            assert api.get(url).status_code == 200, url


def test_a_mail_is_signed_delivered_and_explained(stack: Stack, api: httpx.Client) -> None:
    id_ = _send(api, to="t01-one@example.com", subject="Grüße", text="It works.\n.\nFrom here", html="<p>It works.</p>")
    raw, read = _arrived(api, "t01-one@example.com")
    assert _verifies(stack, raw)
    assert not _verifies(stack, raw.replace(b"It works.", b"It worked", 1)), "the check sees a changed body"
    assert not _verifies(stack, b"Subject: another\r\n" + raw), "a second Subject breaks the signature (oversigned)"
    assert read["subject"] == "Grüße"
    text = read.get_body(("plain",))
    assert text is not None
    assert text.get_content().splitlines() == ["It works.", ".", "From here"]
    [delivery] = _settled(api, id_)
    assert (delivery["recipient"], delivery["state"]) == ("t01-one@example.com", "delivered")
    [attempt] = delivery["attempts"]
    assert (attempt["code"], attempt["outcome"], attempt["tls"][:5]) == (250, "delivered", "TLSv1")
    said = [step["said"] for step in attempt["conversation"] if "said" in step]
    assert "RCPT TO:<t01-one@example.com>" in said
    got = api.get(f"/emails/{id_}").json()
    assert (got["last_event"], got["message_id"]) == ("delivered", read["message-id"])


def test_every_recipient_gets_it_once_and_none_learns_of_bcc(api: httpx.Client) -> None:
    to = [f"t01-to{n}@example.com" for n in range(47)]
    id_ = _send(api, to=[*to, "T01 <t01-to0@EXAMPLE.com>"], cc=to[1], bcc="t01-bcc@example.com", text="t")
    many = [*to, *(f"t01-more{n}@example.com" for n in range(4))]
    assert api.post("/emails", json={"from": FROM, "to": many, "subject": "s", "text": "t"}).status_code == 422
    assert sorted(d["recipient"] for d in _settled(api, id_)) == sorted([*to, "t01-bcc@example.com"])
    for address in (to[0], to[1], to[46], "t01-bcc@example.com"):
        raw, read = _arrived(api, address)
        assert len(_caught(api, address)) == 1
        assert b"t01-bcc" not in raw
        assert read["cc"] == to[1]


def test_large_and_foreign_things_arrive_whole(stack: Stack, api: httpx.Client) -> None:
    octets = os.urandom(10_000_000)
    _send(
        api,
        to="jürgen-t01@bücher.example",
        subject="日本語 " * 60,
        html="<p>" + "ü" * 2_500_000 + "</p>",
        text="",
        reply_to=["山田 <r@example.com>", '"a, b" <q@example.com>'],
        attachments=[{"filename": "naïve файл.bin", "content": base64.b64encode(octets).decode()}],
    )
    raw, read = _arrived(api, "jürgen-t01@xn--bcher-kva.example")
    assert _verifies(stack, raw)
    assert str(read["subject"]).strip() == ("日本語 " * 60).strip()
    assert [str(a) for a in read["reply-to"].addresses] == ["山田 <r@example.com>", '"a, b" <q@example.com>']
    html = read.get_body(("html", "plain"))
    assert html is not None
    assert html.get_content_type() == "text/html"
    assert html.get_content().count("ü") == 2_500_000
    [attachment] = read.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content() == octets) == ("naïve файл.bin", True)


BREAKS = ["\r", "\n", "\r\n", "\0", "\x0b", "\x0c", "\x1c", "\x1e", "\x7f", "\x85", "\u2028", "\u2029", "%0d%0a", "%0A"]


@pytest.mark.parametrize("path", ["/emails", "/emails/batch"])
def test_no_field_becomes_a_header_of_its_own(api: httpx.Client, path: str) -> None:
    """reliability.md C1: 422 with what to change, and nothing reaches the wire."""
    victim = f"t01-victim{path.replace('/', '-')}@example.com"
    for character in BREAKS:
        bcc = f"x{character}Bcc: {victim}"
        attachment = {"content": "aGk=", "filename": "a.txt"}
        for changed in (
            {"from": f"{bcc} <{FROM}>"},
            {"from": f"hello{character}@postroom.test"},
            {"to": f"{victim}{character}RCPT TO:<{victim}>"},
            {"cc": [f'"{bcc}" <{victim}>']},
            {"bcc": f"{victim}{character}"},
            {"reply_to": f"{bcc} <{victim}>"},
            {"subject": bcc},
            {"headers": {"X-A": bcc}},
            {"headers": {f"X-A{character}Bcc": victim}},
            {"tags": [{"name": bcc, "value": "v"}]},
            {"attachments": [attachment | {"filename": bcc}]},
            {"attachments": [attachment | {"content_type": f"text/plain; name=x{character}y"}]},
            {"attachments": [attachment | {"content_id": f"x{character}y"}]},
        ):
            email = {"from": FROM, "to": victim, "subject": "s", "text": "t"} | changed
            answer = api.post(path, json=[email] if path.endswith("batch") else email)
            assert answer.status_code == 422, (character, changed, answer.text)
            assert set(answer.json()) == {"statusCode", "name", "message"}
    last = f"t01-last{path.replace('/', '-')}@example.com"
    _send(api, to=last, text="t")
    _arrived(api, last)  # what was taken before it would have come before it
    assert _caught(api, victim) == []
