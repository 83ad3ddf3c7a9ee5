"""A mail as a request to SendGrid, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailcore.mime.fields import MailAddress
from mailcore.providers.base import (
    REFERENCE,
    Answer,
    Letter,
    Reading,
    Request,
    Verdict,
    accepted,
    failed,
    json_request,
    object_of,
    objects_of,
    text_of,
)
from mailcore.providers.mapped import mapped

_TRACKED_BY_US = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
}


@dataclass(frozen=True, slots=True)
class SendGridSender:
    base_url: str
    host: str
    api_key: str = field(repr=False)
    whole: bool = False
    most_recipients: int = 1_000
    most_octets: int = 21_000_000
    """30 MB of JSON."""

    def request(self, letter: Letter, now: datetime) -> Request:
        mail = mapped(letter)
        seats = {"to": mail.to, "cc": mail.cc, "bcc": mail.bcc}
        body: dict[str, Any] = {
            "personalizations": [
                {name: [_person(each) for each in people] for name, people in seats.items() if people}
            ],
            "from": _person(mail.from_),
            "subject": mail.subject or " ",  # an empty one is refused
            "content": [
                {"type": kind, "value": value}
                for kind, value in (
                    ("text/plain", mail.text),
                    ("text/html", mail.html),
                )  # in this order, or it is refused
                if value
            ],
            "custom_args": {REFERENCE: letter.reference},
            "tracking_settings": _TRACKED_BY_US,
        }
        if mail.reply_to:
            body["reply_to_list"] = [_person(each) for each in mail.reply_to]
        headers = dict(mail.headers)
        if mail.message_id:
            headers["Message-ID"] = mail.message_id
        if headers:
            body["headers"] = headers
        if mail.files:
            body["attachments"] = [
                {"content": file.content, "type": file.content_type, "filename": file.filename}
                | (
                    {"disposition": "inline", "content_id": file.content_id}
                    if file.inline
                    else {"disposition": "attachment"}
                )
                for file in mail.files
            ]
        return json_request(f"{self.base_url}/v3/mail/send", {"Authorization": f"Bearer {self.api_key}"}, body)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        if 200 <= answer.status < 300:
            return accepted(answer, "accepted by SendGrid", answer.headers.get("x-message-id"))
        errors = objects_of(object_of(answer.json()).get("errors"))
        words = "; ".join(text for error in errors[:5] if (text := text_of(error.get("message"))))
        verdict: Verdict | None = None
        if answer.status == 403 and "sender identity" in words.lower():
            verdict = Verdict.REFUSED  # this From is not verified there; others may be
        return failed(answer, words, verdict)


def _person(mailbox: MailAddress) -> dict[str, str]:
    return {"email": mailbox.address} | ({"name": mailbox.name} if mailbox.name else {})
