"""Mail from outside: over TLS to the MX, kept bit for bit, read over the API; what is not ours is refused at RCPT."""

from __future__ import annotations

import hashlib
import smtplib
import socket
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from stack import Stack, wait_for

RAW = (
    b"Received: from somewhere by nowhere;\r\n Sat, 21 Nov 2026 06:07:08 +0000\r\n"
    b"From: =?utf-8?q?Ann=C3=A9?= <ann@example.com>\r\n"
    b"To: T03 <t03@postroom.test>\r\n"
    b"Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\n"
    b"Message-ID: <t03-1@example.com>\r\n"
    b"X-Odd:   kept   as it is\t\r\n"
    b"MIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n'
    b"\r\n"
    b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"Gr\xc3\xbc\xc3\x9fe  \r\n.\r\n..\r\n\r\n"
    b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
    b'Content-Disposition: attachment; filename="../../etc/pass\xc3\xa4"\r\n\r\nAAEC/w==\r\n'
    b"--b--\r\n\r\n\r\n"
)


def _connect(stack: Stack) -> smtplib.SMTP:
    host, port = stack.dev["mx"].split(":")
    return smtplib.SMTP(host, int(port), local_hostname="client.example", timeout=60)


def _received(api: httpx.Client, message_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        mails: list[dict[str, Any]] = api.get("/emails/receiving").json()["data"]
        return next((mail for mail in mails if mail["message_id"] == message_id), None)

    return wait_for(found, f"{message_id} received")


def _download(api: httpx.Client, url: str) -> httpx.Response:
    """By the signed link alone, without a key."""
    link = urlsplit(url)
    return httpx.get(f"{str(api.base_url).rstrip('/')}{link.path}?{link.query}", timeout=60)


def test_a_mail_is_kept_bit_for_bit_and_read(stack: Stack, api: httpx.Client) -> None:
    with _connect(stack) as client:
        client.starttls(context=ssl.create_default_context(cafile=stack.dev["tls_ca"]))
        client.ehlo()
        client.sendmail("ann@example.com", ["t03@postroom.test"], RAW, mail_options=["BODY=8BITMIME"])
    mail = _received(api, "<t03-1@example.com>")
    got = api.get(f"/emails/receiving/{mail['id']}").json()
    assert (got["subject"], got["to"], got["received_for"]) == (
        "Grüße",
        ["t03@postroom.test"],
        ["t03@postroom.test"],
    )
    assert got["text"].startswith("Grüße")
    assert got["headers"]["x-odd"].strip() == "kept   as it is"
    raw = _download(api, got["raw"]["download_url"])
    assert raw.content == RAW
    assert raw.headers["x-content-type-options"] == "nosniff"
    [attachment] = api.get(f"/emails/receiving/{mail['id']}/attachments").json()["data"]
    file = _download(api, attachment["download_url"])
    assert (file.content, file.headers["content-disposition"].partition(";")[0]) == (b"\0\x01\x02\xff", "attachment")
    assert _download(api, attachment["download_url"].replace("expires=", "expires=9")).status_code == 403
    arrival = api.get(f"/v1/arrivals/{mail['id']}").json()
    assert (arrival["state"], arrival["door"], arrival["mail_from"]) == ("routed", "smtp", "ann@example.com")
    assert (arrival["size"], arrival["sha256"]) == (len(RAW), hashlib.sha256(RAW).hexdigest())
    assert arrival["facts"]["tls"]
    [message] = arrival["messages"]
    assert message["mailbox"] == "t03@postroom.test"
    assert api.get(f"/v1/messages/{message['id']}").json()["subject"] == "Grüße"


@pytest.mark.parametrize(
    "address",
    ["x@example.com", "x%example.com@postroom.test", "@postroom.test:x@example.com", '"x@example.com"@postroom.test'],
)
def test_nothing_is_relayed(stack: Stack, address: str) -> None:
    with _connect(stack) as client:
        client.ehlo()
        client.mail("ann@example.com")
        code, words = client.docmd(f"RCPT TO:<{address}>")
        assert (code, words[:5]) == (550, b"5.7.1")
        assert client.docmd("DATA")[0] in (503, 554)


def _say(peer: socket.socket, octets: bytes) -> bytes:
    try:
        peer.sendall(octets)
        return peer.recv(4096)
    except OSError:
        return b""


def test_who_talks_nonsense_disturbs_nobody(stack: Stack, api: httpx.Client) -> None:
    """Garbage, endless lines, a thousand recipients too many, and going away in the middle: the MX goes on serving."""
    host, port = stack.dev["mx"].split(":")
    begin = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<t03-half@postroom.test>\r\n"
    for octets in (
        bytes(range(256)) * 20 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01" + bytes(512) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"EHLO " + b"a" * 3_000_000 + b"\r\n",
        b"a" * 3_000_000,
        b"NOOP\r\n" * 5_000,
        begin + b"RCPT TO:<t03-half@postroom.test>\r\n" * 2_000,
        begin + b"DATA\r\nSubject: half\r\nMessage-ID: <t03-half@example.com>\r\n\r\nhalf of it",
        begin + b"DATA\r\nSubject: smuggled\n.\nMAIL FROM:<x@b.example>\r\n.\r\n",
        begin + b"DATA\r\nSubject: nul\0\r\nMessage-ID: <t03-half@example.com>\r\n\r\n\r\n.\r\n",
        b"EHLO x\r\nSTARTTLS\r\n" + bytes(300),
    ):
        with socket.create_connection((host, int(port)), 60) as peer:
            assert peer.recv(4096).startswith(b"220")
            answer = _say(peer, octets)
            # cut off without goodbye, as a process that was killed does
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert b"queued as" not in answer
    with _connect(stack) as client:
        client.sendmail("", ["t03-last@postroom.test"], "Message-ID: <t03-last@example.com>\r\n\r\n")
    _received(api, "<t03-last@example.com>")
    mails = api.get("/emails/receiving").json()["data"]
    assert not [mail for mail in mails if "t03-half@postroom.test" in mail["received_for"]]
    assert api.get("/v1/arrivals").json()["data"][0]["message_id"] == "<t03-last@example.com>"
