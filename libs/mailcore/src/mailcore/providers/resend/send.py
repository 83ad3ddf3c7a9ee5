"""A mail as a request to Resend, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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
    text_of,
)
from mailcore.providers.mapped import mapped, shown

_OF_THE_ACCOUNT = frozenset(
    (
        *("missing_api_key", "restricted_api_key", "suspended_api_key", "invalid_api_key", "invalid_permission"),
        *("daily_quota_exceeded", "monthly_quota_exceeded"),
    )
)
_OF_THIS_MAIL = frozenset(("validation_error", "invalid_from_address", "invalid_attachment", "missing_required_field"))


@dataclass(frozen=True, slots=True)
class ResendSender:
    base_url: str
    host: str
    api_key: str = field(repr=False)
    whole: bool = False
    most_recipients: int = 1
    """It takes 50, and then each report names them all."""
    most_octets: int = 28_000_000
    """40 MB once its attachments are base64 in JSON."""

    def request(self, letter: Letter, now: datetime) -> Request:
        mail = mapped(letter)
        body: dict[str, Any] = {
            "from": shown(mail.from_),
            "to": [shown(each) for each in mail.to],
            "subject": mail.subject,
            "tags": [{"name": REFERENCE, "value": letter.reference}],
        }
        for name, people in (("cc", mail.cc), ("bcc", mail.bcc), ("reply_to", mail.reply_to)):
            if people:
                body[name] = [shown(each) for each in people]
        if mail.html is not None:
            body["html"] = mail.html
        if mail.text is not None:
            body["text"] = mail.text
        if mail.headers:
            body["headers"] = mail.headers
        if mail.files:
            body["attachments"] = [
                {"filename": file.filename, "content": file.content, "content_type": file.content_type}
                | ({"content_id": file.content_id} if file.content_id else {})
                for file in mail.files
            ]
        headers = {"Authorization": f"Bearer {self.api_key}", "Idempotency-Key": letter.key}
        return json_request(f"{self.base_url}/emails", headers, body)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        said = object_of(answer.json())
        if 200 <= answer.status < 300:
            return accepted(answer, "accepted by Resend", text_of(said.get("id")))
        name, words = text_of(said.get("name")), text_of(said.get("message"))
        verdict: Verdict | None = None
        if name in _OF_THE_ACCOUNT or words == "API key is invalid":
            verdict = Verdict.ACCOUNT
        elif answer.status == 403 and name in _OF_THIS_MAIL:
            verdict = (
                Verdict.REFUSED
            )  # a From whose domain this account has not verified: others' mail is not concerned
        # 409: the same key is under way, or was used for other octets; by tomorrow it is forgotten
        return failed(answer, f"{name}: {words}" if name and words else name or words, verdict)
