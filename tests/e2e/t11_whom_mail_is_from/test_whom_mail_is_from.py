"""Whom mail is from: proven by the DNS, refused where a domain wants that, and who sends in our own name, by others' reports."""

from __future__ import annotations

import gzip
import smtplib
import time
from email.message import EmailMessage
from typing import Any

import httpx
import pytest

from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519
from mailcore.mailauth.dkim.sign import sign
from stack import Stack, wait_for

ZONE = "t11-bank.test"
KEY = SigningKey.load("s", ZONE, generate_ed25519()[0])


@pytest.fixture(scope="module")
def bank(api: httpx.Client) -> None:
    """A domain that wants what is not its own refused."""
    records = [
        {"name": "@", "type": "TXT", "value": "v=spf1 -all"},
        {"name": "_dmarc", "type": "TXT", "value": "v=DMARC1; p=reject"},
        {"name": "s._domainkey", "type": "TXT", "value": KEY.public_txt},
    ]
    assert api.put(f"/v1/lab/dns/{ZONE}", json={"records": records}).status_code == 200


@pytest.fixture(scope="module")
def strict(api: httpx.Client) -> str:
    """A receiving domain that refuses what fails."""
    name = "t11-strict.test"
    asked = {"name": name, "capabilities": {"sending": "disabled", "receiving": "enabled"}}
    domain = api.post("/domains", json=asked).json()
    records = [
        {key: record[key] for key in ("name", "type", "value", "priority") if key in record}
        for record in domain["records"]
    ]
    assert api.put(f"/v1/lab/dns/{name}", json={"records": records}).status_code == 200
    path = f"/v1/domains/{domain['id']}/receiving"
    assert api.patch(path, json={"dmarc_policy": "reject"}).json()["dmarc_policy"] == "reject"
    api.post(f"/domains/{domain['id']}/verify")
    wait_for(lambda: api.get(f"/domains/{domain['id']}").json()["status"] == "verified", f"{name} is verified")
    return name


def letter(subject: str, *, signed: bool) -> bytes:
    head = (
        f"From: Bank <pay@{ZONE}>\r\nTo: t11@postroom.test\r\nSubject: {subject}\r\nMessage-ID: <{subject}@{ZONE}>\r\n"
    )
    body = b"Hello\r\n"
    field = sign(head.encode(), body, [KEY], now=int(time.time())) if signed else b""
    return field + head.encode() + b"\r\n" + body


def deliver(stack: Stack, raw: bytes, to: str = "t11@postroom.test") -> tuple[int, bytes]:
    host, port = stack.dev["mx"].split(":")
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        try:
            smtp.sendmail("x@t11-elsewhere.test", [to], raw)
        except smtplib.SMTPDataError as error:
            return error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""
    return 250, b""


def arrived(api: httpx.Client, message_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        mails = api.get("/v1/arrivals", params={"limit": 100}).json()["data"]
        one = next((mail for mail in mails if mail["message_id"] == message_id), None)
        return None if one is None else api.get(f"/v1/arrivals/{one['id']}").json()

    arrival: dict[str, Any] = wait_for(found, f"{message_id} arrived")
    return arrival


def test_what_is_found_is_shown(stack: Stack, api: httpx.Client, bank: None) -> None:
    for subject, signed, result in (("t11-own", True, "pass"), ("t11-forged", False, "fail")):
        assert deliver(stack, letter(subject, signed=signed))[0] == 250
        auth = arrived(api, f"<{subject}@{ZONE}>")["auth"]
        assert (auth["dmarc"]["result"], auth["dmarc"]["domain"], auth["dmarc"]["policy"]) == (result, ZONE, "reject")
        assert f"dmarc={result}" in auth["header"]


def test_what_its_author_disowns_is_refused(stack: Stack, api: httpx.Client, bank: None, strict: str) -> None:
    code, said = deliver(stack, letter("t11-refused", signed=False), f"t11@{strict}")
    assert (code, said.startswith(b"5.7.1 DMARC fails")) == (550, True)
    assert deliver(stack, letter("t11-taken", signed=True), f"t11@{strict}")[0] == 250
    assert arrived(api, f"<t11-taken@{ZONE}>")["auth"]["dmarc"]["aligned"] == ["dkim"]


def test_who_sends_in_our_name(stack: Stack, api: httpx.Client) -> None:
    """A receiver's report comes to the address that the advice about the domain names."""
    xml = (
        "<feedback><report_metadata><org_name>T11</org_name><email>r@t11.test</email><report_id>t11</report_id><date_range>"
        f"<begin>{int(time.time()) - 90_000}</begin><end>{int(time.time()) - 4_000}</end></date_range></report_metadata>"
        "<policy_published><domain>postroom.test</domain><p>none</p></policy_published><record><row>"
        "<source_ip>203.0.113.111</source_ip><count>9</count><policy_evaluated><disposition>none</disposition><dkim>fail</dkim>"
        "<spf>fail</spf></policy_evaluated></row><identifiers><header_from>postroom.test</header_from></identifiers></record>"
        "</feedback>"
    )
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "r@t11.test", "dmarc@postroom.test", "Report Domain: postroom.test"
    mail.set_content("A report.")
    mail.add_attachment(
        gzip.compress(xml.encode()), "application", "gzip", filename="t11.test!postroom.test!1!2.xml.gz"
    )
    assert deliver(stack, mail.as_bytes().replace(b"\n", b"\r\n"), "dmarc@postroom.test")[0] == 250

    def source() -> dict[str, Any] | None:
        found = api.get("/v1/dmarc/sources", params={"failing": "true"}).json()["data"]
        return next((each for each in found if each["source_ip"] == "203.0.113.111"), None)

    found = wait_for(source, "the report is taken in")
    assert (found["domain"], found["messages"], found["failed"], found["reported_by"]) == (
        "postroom.test",
        9,
        9,
        ["T11"],
    )
    (report,) = [each for each in api.get("/v1/dmarc/reports").json()["data"] if each["report_id"] == "t11"]
    assert (report["proven"], report["source"]) == (None, "x@t11-elsewhere.test")
