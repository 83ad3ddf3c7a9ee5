"""Each vendor against what its documentation shows (the fixtures beside its code): answers, events, signatures."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fakes.provider_posts import (
    CERTIFICATE_URL,
    FOLDER,
    NOW,
    REFERENCE,
    SETTINGS,
    fetch,
    fetched,
    fixture,
    signed_post,
    sns,
)
from mailcore.kit.errors import Invalid
from mailcore.providers.base import Account, Answer, Event, EventSource, Forged, Kind, Letter, Post, Verdict
from mailcore.providers.registry import VENDORS
from mailcore.providers.ses.sigv4 import signed

MAIL = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=postroom.test; s=rsa; h=from; bh=x; b=y\r\n"
    b"From: =?utf-8?q?J=C3=B6rg?= <us@postroom.test>\r\nTo: Ada <ada@example.com>, bob@example.net\r\n"
    b"Cc: cy@example.org\r\nReply-To: answers@postroom.test\r\nSubject: Hello\r\nMessage-ID: <m@postroom.test>\r\n"
    b"Date: Sat, 21 Nov 2026 15:00:00 +0000\r\nX-Campaign: autumn\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    b'--b\r\nContent-Type: multipart/alternative; boundary="c"\r\n\r\n'
    b"--c\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello there\r\n"
    b"--c\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hello there</p>\r\n--c--\r\n"
    b'--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename="a.pdf"\r\n'
    b"Content-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--b--\r\n"
)


def account(vendor: str) -> Account:
    return VENDORS[vendor].model_validate(SETTINGS[vendor])


def letter(*recipients: str, content: bytes = MAIL) -> Letter:
    return Letter("b+x@send.postroom.test", recipients or ("ada@example.com",), content, REFERENCE, "key-1")


def fixtures(name: str) -> list[Any]:
    return [
        pytest.param(vendor, key, case, id=f"{vendor}-{key}")
        for vendor in VENDORS
        for key, case in fixture(vendor, name).items()
    ]


def test_every_vendor_says_where_its_fixtures_come_from() -> None:
    for vendor in VENDORS:
        text = (FOLDER / vendor / "fixtures" / "README.md").read_text()
        assert "https://" in text and "Read on " in text


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vendor", "key", "case"), fixtures("answers"))
def test_an_answer_is_understood(vendor: str, key: str, case: dict[str, Any]) -> None:
    body = case["body"]
    octets = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    reading = account(vendor).sender().read(Answer(case["status"], case["headers"], octets), letter())
    assert reading.others.get("ada@example.com", reading.verdict) is Verdict(case["expect"])
    if case["status"] >= 300:
        assert f"HTTP {case['status']}" in reading.words
    if "retry-after" in case["headers"]:
        assert reading.retry_after == float(case["headers"]["retry-after"])
    assert reading.unsure == (case["status"] in (502, 504))


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_vendor_shows_each_kind_of_answer(vendor: str) -> None:
    """And what refuses a mail for good says so in the vendor's own words."""
    answers = fixture(vendor, "answers")
    classes = {(case["status"] // 100, case["expect"]) for case in answers.values()}
    taken = {(2, "accepted"), (2, "delivered")}
    assert classes & taken and classes >= {(4, "refused"), (4, "account"), (4, "limited"), (5, "later"), (5, "down")}
    assert {case["expect"] for case in answers.values() if case["status"] == 429} <= {"limited", "account"}
    sender = account(vendor).sender()
    for name, case in answers.items():
        if case["expect"] == "refused":
            reading = sender.read(Answer(case["status"], {}, json.dumps(case["body"]).encode()), letter())
            words = reading.words.removeprefix(f"HTTP {case['status']}: ")
            said = [text for text in _texts(case["body"]) if len(text) > 12]
            assert any(text[:200] in words for text in said), f"{name}: {words}"


def _texts(body: Any) -> list[str]:
    if isinstance(body, dict | list):
        return [text for each in (body.values() if isinstance(body, dict) else body) for text in _texts(each)]
    return [body] if isinstance(body, str) else []


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "body", [b"", b"null", b"[1]", b'{"errors": 3}', b'{"message": {}}', b"\xff\x00", b'{"result": []}']
)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 429, 500, 599])
def test_no_answer_can_make_the_reading_fail(vendor: str, body: bytes, status: int) -> None:
    reading = account(vendor).sender().read(Answer(status, {}, body), letter())
    if status >= 500:
        assert reading.verdict is Verdict.LATER
    if status == 302:
        assert reading.verdict is Verdict.LATER


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_success_that_is_not_the_vendors_is_none(vendor: str) -> None:
    """A portal's page, a proxy's greeting: a mail that nobody has must not count as sent."""
    for body in (b"<h1>Welcome</h1>", b"{}", b""):
        reading = account(vendor).sender().read(Answer(200, {}, body), letter())
        assert reading.verdict is Verdict.LATER, vendor


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "mailgun"])
def test_a_wrong_base_url_fails_no_mail(vendor: str) -> None:
    for status in (404, 405):
        reading = account(vendor).sender().read(Answer(status, {"content-type": "text/html"}, b"<h1>?</h1>"), letter())
        assert reading.verdict is Verdict.ACCOUNT, "the way rests, and the mail waits or goes by the next"


# ---- requests --------------------------------------------------------------------------------------------------------


def test_whole_messages_travel_as_they_are() -> None:
    recipients = ("ada@example.com", "hidden@example.com")
    for vendor in ("mailgun", "ses", "cloudflare"):
        sender = account(vendor).sender()
        assert sender.whole
        request = sender.request(letter(*recipients), datetime.now(UTC))
        if vendor == "mailgun":
            assert MAIL in request.body and b"\r\n\r\nhidden@example.com\r\n" in request.body
            assert b'name="v:postroom"\r\n\r\n' + REFERENCE.encode() in request.body
            assert request.url == "https://api.mailgun.net/v3/postroom.test/messages.mime"
        elif vendor == "ses":
            body = json.loads(request.body)
            assert base64.b64decode(body["Content"]["Raw"]["Data"]) == MAIL
            assert body["Destination"]["ToAddresses"] == list(recipients)
            assert body["ConfigurationSetName"] == "ConfigSet"
        else:
            body = json.loads(request.body)
            assert body["mime_message"].encode() == MAIL
            assert body["recipients"] == list(recipients)


def test_mapped_fields_say_what_the_message_says() -> None:
    to = letter("ada@example.com", "cy@example.org", "hidden@example.com")
    made = {}
    for vendor in ("resend", "sendgrid", "postmark"):
        sender = account(vendor).sender()
        assert not sender.whole
        made[vendor] = json.loads(sender.request(to, datetime.now(UTC)).body)
    resend = made["resend"]
    assert resend["from"] == '"Jörg" <us@postroom.test>'
    assert (resend["to"], resend["cc"], resend["bcc"]) == (
        ["Ada <ada@example.com>"],
        ["cy@example.org"],
        ["hidden@example.com"],
    )
    assert (resend["subject"], resend["text"].strip(), resend["html"].strip()) == (
        "Hello",
        "Hello there",
        "<p>Hello there</p>",
    )
    assert resend["headers"] == {"X-Campaign": "autumn"}
    assert resend["attachments"] == [{"filename": "a.pdf", "content": "JVBERg==", "content_type": "application/pdf"}]
    sendgrid = made["sendgrid"]
    assert sendgrid["personalizations"] == [
        {
            "to": [{"email": "ada@example.com", "name": "Ada"}],
            "cc": [{"email": "cy@example.org"}],
            "bcc": [{"email": "hidden@example.com"}],
        }
    ]
    assert [each["type"] for each in sendgrid["content"]] == ["text/plain", "text/html"]
    assert sendgrid["headers"]["Message-ID"] == "<m@postroom.test>"
    assert not sendgrid["tracking_settings"]["click_tracking"]["enable"]
    postmark = made["postmark"]
    assert postmark["To"] == "Ada <ada@example.com>" and postmark["Bcc"] == "hidden@example.com"
    assert {"Name": "X-PM-KeepID", "Value": "true"} in postmark["Headers"]
    assert postmark["Metadata"] == {"postroom": REFERENCE}
    assert all("DKIM" not in json.dumps(body) for body in made.values())


def test_the_idempotency_key_goes_along_where_there_is_one() -> None:
    request = account("resend").sender().request(letter(), datetime.now(UTC))
    assert request.headers["Idempotency-Key"] == "key-1"


def test_a_signature_of_aws_is_the_one_of_their_example() -> None:
    # AWS's own test suite of signature version 4, "post-x-www-form-urlencoded"
    headers = signed(
        "POST",
        "https://example.amazonaws.com/",
        {"Content-Type": "application/x-www-form-urlencoded"},
        b"Param1=value1",
        region="us-east-1",
        service="service",
        access_key_id="AKIDEXAMPLE",
        secret_access_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        now=datetime(2015, 8, 30, 12, 36, tzinfo=UTC),
    )
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
    )


# ---- events ----------------------------------------------------------------------------------------------------------


def source(vendor: str) -> EventSource:
    found = account(vendor).events()
    assert found is not None
    return found


async def read(vendor: str, post: Post, now: float = NOW) -> list[Event]:
    return await source(vendor).read(post, now=now, fetch=fetch)


@pytest.mark.parametrize(("vendor", "key", "case"), fixtures("events"))
async def test_an_event_is_understood(vendor: str, key: str, case: dict[str, Any]) -> None:
    found = await read(vendor, signed_post(vendor, case["body"]))
    if case["expect"] is None:
        assert found == []
        return
    (event,) = found
    assert (event.kind, event.reference, event.recipient) == (Kind(case["expect"]), REFERENCE, "ada@example.com")
    assert event.id
    if "reply" in case:
        assert str(event.reply) == case["reply"]


REPORTING = [vendor for vendor in VENDORS if vendor != "cloudflare"]


def _delivered(vendor: str) -> Any:
    return fixture(vendor, "events")["delivered"]["body"]


@pytest.mark.parametrize("vendor", REPORTING)
async def test_the_same_post_has_the_same_id_and_another_recipient_another(vendor: str) -> None:
    (first,) = await read(vendor, signed_post(vendor, _delivered(vendor)))
    (again,) = await read(vendor, signed_post(vendor, _delivered(vendor)))
    assert first.id == again.id


async def test_who_names_several_where_one_is_meant_says_so() -> None:
    resend = fixture("resend", "events")["bounced"]["body"]
    resend["data"]["to"] = ["Ada <ada@example.com>", "bob@example.com"]
    ses = fixture("ses", "events")["complained"]["body"]
    ses["complaint"]["complainedRecipients"].append({"emailAddress": "bob@example.com"})
    for vendor, body in (("resend", resend), ("ses", ses)):
        found = await read(vendor, signed_post(vendor, body))
        assert [(each.recipient, each.unsure) for each in found] == [
            ("ada@example.com", True),
            ("bob@example.com", True),
        ]
    # of bounces SES tells which
    ses = fixture("ses", "events")["bounced"]["body"]
    ses["bounce"]["bouncedRecipients"].append({"emailAddress": "bob@example.com"})
    assert [each.unsure for each in await read("ses", signed_post("ses", ses))] == [False, False]


@pytest.mark.parametrize("vendor", REPORTING)
async def test_a_forged_post_is_refused(vendor: str) -> None:
    good = signed_post(vendor, _delivered(vendor))
    changed = good.body.replace(b"ada@example.com", b"eve@example.com")
    forged = {"resend": changed, "sendgrid": changed, "ses": changed}.get(vendor)
    if forged is not None:
        with pytest.raises(Forged):
            await read(vendor, Post(good.headers, forged))
    # nothing at all
    with pytest.raises(Forged):
        await read(vendor, Post({}, json.dumps(_delivered(vendor)).encode()))


@pytest.mark.parametrize("vendor", ["resend", "sendgrid", "mailgun"])
async def test_an_old_post_is_refused(vendor: str) -> None:
    with pytest.raises(Forged):
        await read(vendor, signed_post(vendor, _delivered(vendor), at=NOW - 301))


async def test_mailgun_signs_timestamp_and_token_and_nothing_else_passes() -> None:
    body = json.loads(signed_post("mailgun", _delivered("mailgun")).body)
    body["signature"]["token"] = "token-2"
    with pytest.raises(Forged):
        await read("mailgun", Post({}, json.dumps(body).encode()))


async def test_a_subscription_to_our_topic_is_confirmed_and_another_topic_is_not() -> None:
    fetched.clear()
    url = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    ask = {"Type": "SubscriptionConfirmation", "Message": "You have chosen …", "SubscribeURL": url, "Token": "t"}
    assert await read("ses", sns(ask)) == []
    assert fetched == [CERTIFICATE_URL, url]
    with pytest.raises(Forged):
        await read("ses", sns(ask, topic="arn:aws:sns:us-east-1:210987654321:Mine"))
    for elsewhere in (
        "https://sns.us-east-1.amazonaws.com.evil.test/a.pem",
        "http://sns.us-east-1.amazonaws.com/a.pem",
    ):
        with pytest.raises(Forged):
            await read("ses", sns({"Type": "Notification", "Message": "{}"}, url=elsewhere))
    assert await read("ses", sns({"Type": "Notification", "Message": "{}"}, version="1")) == []


@pytest.mark.parametrize("vendor", REPORTING)
@pytest.mark.parametrize("body", ["{}", "[]", "null", "[3]", '{"data": []}', '{"event-data": 1}'])
async def test_strange_bodies_are_no_events(vendor: str, body: str) -> None:
    try:
        assert (
            await read(vendor, signed_post(vendor, json.loads(body) if vendor != "mailgun" else {"event-data": 1}))
            == []
        )
    except Invalid as error:
        assert not isinstance(error, Forged) or vendor in ("mailgun", "ses")
