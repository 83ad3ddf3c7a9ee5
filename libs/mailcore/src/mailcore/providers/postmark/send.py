"""A mail as a request to Postmark, and its answer, whose own error codes say more than the status."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    failed,
    json_request,
    object_of,
    text_of,
)
from mailcore.providers.mapped import mapped, shown

_OF_THE_ACCOUNT = frozenset((10, 405, 412, 413))
"""No such token; not allowed to send (credits used up); account pending; account may not send."""
_MAINTENANCE = 100
_INACTIVE = re.compile(r"inactive addresses: ([^;\n]{1,2000}?)(?:\. |\.?$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PostmarkSender:
    base_url: str
    host: str
    server_token: str = field(repr=False)
    message_stream: str = "outbound"
    whole: bool = False
    most_recipients: int = 50
    most_octets: int = 10_000_000

    def request(self, letter: Letter, now: datetime) -> Request:
        mail = mapped(letter)
        body: dict[str, Any] = {
            "From": shown(mail.from_),
            "To": _list(mail.to),
            "Subject": mail.subject,
            "MessageStream": self.message_stream,
            "Metadata": {REFERENCE: letter.reference},
            "TrackOpens": False,
            "TrackLinks": "None",
        }
        for name, people in (("Cc", mail.cc), ("Bcc", mail.bcc), ("ReplyTo", mail.reply_to)):
            if people:
                body[name] = _list(people)
        if mail.html is not None:
            body["HtmlBody"] = mail.html
        if mail.text is not None:
            body["TextBody"] = mail.text
        headers = [{"Name": name, "Value": value} for name, value in mail.headers.items()]
        if mail.message_id:
            # it keeps a Message-ID only when asked to
            headers += [{"Name": "Message-ID", "Value": mail.message_id}, {"Name": "X-PM-KeepID", "Value": "true"}]
        if headers:
            body["Headers"] = headers
        if mail.files:
            body["Attachments"] = [
                {"Name": file.filename, "Content": file.content, "ContentType": file.content_type}
                | ({"ContentID": f"cid:{file.content_id}"} if file.content_id else {})
                for file in mail.files
            ]
        headers_ = {"X-Postmark-Server-Token": self.server_token, "Accept": "application/json"}
        return json_request(f"{self.base_url}/email", headers_, body)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        said = object_of(answer.json())
        words, code = text_of(said.get("Message")), said.get("ErrorCode")
        if 200 <= answer.status < 300 and code == 0:
            return Reading(
                Verdict.ACCEPTED, words or "OK", text_of(said.get("MessageID")) or None, others=_inactive(words)
            )
        verdict: Verdict | None = None
        if code in _OF_THE_ACCOUNT:
            verdict = Verdict.ACCOUNT
        elif code == _MAINTENANCE:
            verdict = Verdict.DOWN
        elif 200 <= answer.status < 300:
            verdict = Verdict.REFUSED if isinstance(code, int) else Verdict.LATER  # of somebody else's
        return failed(answer, f"{code} {words}" if isinstance(code, int) else words, verdict)


def _list(people: Iterable[MailAddress]) -> str:
    return ", ".join(map(shown, people))


def _inactive(words: str) -> dict[str, Verdict]:
    """Of several recipients those that it will not send to are named in the words."""
    found = _INACTIVE.search(words)
    if found is None:
        return {}
    return {address.strip().lower(): Verdict.REFUSED for address in found[1].split(",") if "@" in address}
