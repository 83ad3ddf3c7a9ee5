"""An application that speaks SMTP hands its mail in on 587 and 465, and it leaves by the same way and rules as by the API."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
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

from peers import peer
from stack import Stack, wait_for

BOTH = pytest.mark.parametrize("port", ["submission", "submissions"])


def _connected(stack: Stack, port: str) -> smtplib.SMTP:
    host, _, number = stack.dev[port].rpartition(":")
    tls = ssl.create_default_context(cafile=stack.dev["tls_ca"])
    if port == "submissions":
        return smtplib.SMTP_SSL(host, int(number), timeout=60, context=tls)
    connection = smtplib.SMTP(host, int(number), timeout=60)
    connection.starttls(context=tls)
    return connection


def _caught(stack: Stack, to: str) -> bytes:
    return stack.raw(wait_for(lambda: stack.caught(to), f"mail to {to}")[0])


def _read(raw: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(raw)


def _verifies(stack: Stack, raw: bytes) -> bool:
    host, _, port = stack.dev["dns"].rpartition(":")

    def txt(name: bytes | str, timeout: int = 5) -> bytes:
        query = dns.message.make_query(name.decode() if isinstance(name, bytes) else name, "TXT")
        answer = dns.query.udp_with_fallback(query, host, port=int(port), timeout=60)[0]
        found = [record for record in answer.answer if record.rdtype == dns.rdatatype.TXT]
        return b"".join(found[0][0].strings) if found else b""

    return bool(dkim.DKIM(raw).verify(dnsfunc=txt))


def _listed(api: httpx.Client, message_id: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = api.get("/emails", params={"limit": 100}).json()["data"]
    return next(email for email in found if email["message_id"] == message_id)


@BOTH
def test_a_mail_by_smtplib_arrives_signed_and_shows_in_the_list(stack: Stack, api: httpx.Client, port: str) -> None:
    to, blind = f"{port}@example.com", f"{port}-blind@example.com"
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "Grüße <hello@postroom.test>", to, blind
    message["Subject"], message["Message-ID"] = f"Grüße by {port}", f"<{port}.1@postroom.test>"
    message.set_content("Grüße aus Köln\n")
    message.add_attachment(bytes(range(256)), maintype="application", subtype="octet-stream", filename="alles.bin")
    with _connected(stack, port) as connection:
        connection.login("resend", stack.dev["api_key"])
        assert connection.send_message(message) == {}
    for recipient in (to, blind):
        raw = _caught(stack, recipient)
        assert raw.isascii()
        assert _verifies(stack, raw)
        read = _read(raw)
        assert (read["bcc"], read["subject"]) == (None, f"Grüße by {port}")
        assert next(read.iter_attachments()).get_content() == bytes(range(256))
    email = _listed(api, f"<{port}.1@postroom.test>")
    assert (email["to"], email["bcc"], email["subject"]) == ([to], [blind], f"Grüße by {port}")
    deliveries = api.get(f"/v1/emails/{email['id']}/deliveries").json()["data"]
    assert [delivery["recipient"] for delivery in deliveries] == [to, blind]


def test_mail_that_must_stay_under_tls_reaches_the_catcher_under_tls(stack: Stack, api: httpx.Client) -> None:
    message = (
        b"From: hello@postroom.test\r\nTo: strict@example.com\r\nMessage-ID: <strict@postroom.test>\r\n\r\nHello\r\n"
    )
    with _connected(stack, "submission") as connection:
        connection.login("api", stack.dev["api_key"])
        assert connection.has_extn("requiretls")
        connection.sendmail("me@elsewhere.test", ["strict@example.com"], message, mail_options=["REQUIRETLS"])
    _caught(stack, "strict@example.com")
    email = _listed(api, "<strict@postroom.test>")
    deliveries = f"/v1/emails/{email['id']}/deliveries"
    [attempt] = wait_for(lambda: api.get(deliveries).json()["data"][0]["attempts"], "it is settled")
    assert attempt["tls"] and attempt["tls_policy"] == "required"
    assert any(line.get("said", "").endswith(" REQUIRETLS") for line in attempt["conversation"])


def test_8_bit_mail_arrives_as_7_bit_signed_and_whole(stack: Stack, api: httpx.Client) -> None:
    message = (
        "From: hello@postroom.test\r\nTo: eight@example.com\r\nSubject: Grüße\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="x"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n'
        "--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nПривет\r\n"
        "--x\r\nContent-Type: text/plain\r\n\r\nuntouched = and ~\r\n--x--\r\n"
    ).encode()
    with _connected(stack, "submission") as connection:
        connection.login("api", stack.dev["api_key"])
        connection.sendmail("bounces@elsewhere.test", ["eight@example.com"], message, mail_options=["BODY=8BITMIME"])
    raw = _caught(stack, "eight@example.com")
    assert raw.isascii()
    assert _verifies(stack, raw)
    assert b"--x\r\nContent-Type: text/plain\r\n\r\nuntouched = and ~\r\n--x--\r\n" in raw
    read = _read(raw)
    assert read["subject"] == "Grüße"
    assert next(iter(read.iter_parts())).get_content().strip() == "Привет"


@BOTH
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_hands_in_a_mail(stack: Stack, port: str, mechanism: str) -> None:
    to = f"swaks-{port}-{mechanism.lower()}@example.com"
    done = subprocess.run(
        [
            *(peer("swaks"), "--server", stack.dev[port], "--tls-on-connect" if port == "submissions" else "--tls"),
            *("--tls-verify", "--tls-ca-path", stack.dev["tls_ca"]),
            *("--auth", mechanism, "--auth-user", "resend", "--auth-password", stack.dev["api_key"]),
            *("--from", "hello@postroom.test", "--to", to, "--h-Subject", "by swaks", "--hide-all"),
        ],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    raw = _caught(stack, to)
    assert _verifies(stack, raw)
    assert _read(raw)["subject"] == "by swaks"


def test_rules_are_those_of_the_api(stack: Stack, api: httpx.Client) -> None:
    domain = api.post("/domains", json={"name": "second.postroom.test"}).json()
    restricted = api.post(
        "/api-keys", json={"name": "r", "permission": "sending_access", "domain_id": domain["id"]}
    ).json()["token"]
    mail = "From: {}\r\nTo: no@example.com\r\nSubject: s\r\n\r\nx\r\n"
    with _connected(stack, "submission") as connection:
        with pytest.raises(smtplib.SMTPSenderRefused) as unknown:
            connection.sendmail("hello@postroom.test", ["no@example.com"], "x")
        assert unknown.value.smtp_code == 530
        with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
            connection.login("resend", "re_wrong")
        assert wrong.value.smtp_code == 535
    for key, sender in ((stack.dev["api_key"], "hello@nowhere.test"), (restricted, "hello@postroom.test")):
        with _connected(stack, "submission") as connection:
            connection.login("resend", key)
            with pytest.raises(smtplib.SMTPDataError) as refused:
                connection.sendmail("hello@postroom.test", ["no@example.com"], mail.format(sender))
            assert (refused.value.smtp_code, bytes(refused.value.smtp_error)[:5]) == (550, b"5.7.1")
    assert stack.caught("no@example.com") == []


def test_an_idempotency_key_sends_once(stack: Stack) -> None:
    mail = "From: hello@postroom.test\r\nTo: once@example.com\r\nSubject: {}\r\nResend-Idempotency-Key: order-4711\r\n\r\nx\r\n"
    replies = []
    for subject in ("one", "one", "two"):
        with _connected(stack, "submissions") as connection:
            connection.login("resend", stack.dev["api_key"])
            connection.mail("hello@postroom.test")
            connection.rcpt("once@example.com")
            replies.append(connection.data(mail.format(subject)))
    assert replies[0][0] == 250
    assert replies[1] == replies[0]
    assert replies[2][0] == 550
    assert b"esend-" not in _caught(stack, "once@example.com")
    assert len(stack.caught("once@example.com")) == 1


def test_who_hands_mail_in_is_told_what_could_not_be_delivered(stack: Stack) -> None:
    """RFC 3461, RFC 3464: the peer's words, in a report that is signed and has no return path of its own."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "hello@postroom.test", "550-nobody@example.com", "To nobody"
    message["Message-ID"] = "<to-nobody@postroom.test>"
    message.set_content("Is anybody there?\n")
    with _connected(stack, "submission") as connection:
        connection.login("resend", stack.dev["api_key"])
        assert connection.has_extn("dsn")
        connection.send_message(
            message,
            "sender@elsewhere.example",
            ["550-nobody@example.com", "somebody@example.com"],
            mail_options=["RET=HDRS", "ENVID=QQ314"],
            rcpt_options=["NOTIFY=FAILURE", "ORCPT=rfc822;nobody@example.com"],
        )
    raw = _caught(stack, "sender@elsewhere.example")
    assert _verifies(stack, raw)
    report = _read(raw)
    assert report.get_content_type() == "multipart/report"
    assert report["from"] == "Mail Delivery System <mailer-daemon@postroom.test>"
    _, status, head = report.iter_parts()
    whole, recipient = status.get_payload()
    assert whole["Original-Envelope-Id"] == "QQ314"
    assert recipient["Final-Recipient"] == "rfc822; 550-nobody@example.com"
    assert (recipient["Action"], recipient["Status"][:2]) == ("failed", "5.")
    assert recipient["Diagnostic-Code"].startswith("smtp; 550")
    assert "Subject: To nobody" in str(head)
    [caught] = stack.caught("sender@elsewhere.example")
    assert caught.mail_from == ""
