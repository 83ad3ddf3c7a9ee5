"""A mail as a request to Mailgun, and its answer. The envelope is ours to name, so Bcc needs no care."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from mailcore.kit.errors import Refused
from mailcore.providers.base import (
    REFERENCE,
    Answer,
    Letter,
    Reading,
    Request,
    Verdict,
    accepted,
    basic,
    failed,
    object_of,
    text_of,
)
from mailcore.providers.mapped import author


@dataclass(frozen=True, slots=True)
class MailgunSender:
    base_url: str
    host: str
    api_key: str = field(repr=False)
    domain: str | None = None
    whole: bool = True
    most_recipients: int = 1_000
    most_octets: int = 26_214_400

    def request(self, letter: Letter, now: datetime) -> Request:
        fields = [
            *(("to", recipient) for recipient in letter.recipients),
            ("o:tracking", "no"),
            ("o:tracking-clicks", "no"),
            ("o:tracking-opens", "no"),
            (f"v:{REFERENCE}", letter.reference),
        ]
        content_type, body = form(fields, ("message", "message.eml", letter.content))
        headers = {"Authorization": basic("api", self.api_key), "Content-Type": content_type}
        return Request("POST", f"{self.base_url}/v3/{self._domain(letter)}/messages.mime", headers, body)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        said = object_of(answer.json())
        words = text_of(said.get("message")) or answer.body[:200].decode("utf-8", "replace")
        if 200 <= answer.status < 300:
            return accepted(answer, words, text_of(said.get("id")))
        verdict: Verdict | None = None
        if answer.status == 404:
            # no such domain in the account: of its own setting that concerns all mail, of From this one
            verdict = Verdict.ACCOUNT if self.domain else Verdict.REFUSED
        elif answer.status == 420:
            verdict = Verdict.LIMITED
        return failed(answer, words, verdict)

    def _domain(self, letter: Letter) -> str:
        if self.domain:
            return self.domain
        domain = author(letter).address.rpartition("@")[2].lower()
        if not domain or not all(char.isalnum() or char in ".-" for char in domain) or not domain.isascii():
            raise Refused("The domain of From cannot be read.", code=554, enhanced="5.6.0")
        return domain


def form(fields: Iterable[tuple[str, str]], file: tuple[str, str, bytes]) -> tuple[str, bytes]:
    """`multipart/form-data` (RFC 7578): its type with the boundary, and the body."""
    name, filename, content = file
    # a boundary that the content cannot hold unless it was made for it, and then only for this very content
    boundary = hashlib.sha256(b"form-data:" + content).hexdigest()
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (boundary.encode(), field_name.encode(), value.encode())
        for field_name, value in fields
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: message/rfc822\r\n\r\n"
    )
    return (
        f"multipart/form-data; boundary={boundary}",
        b"".join([*parts, head.encode(), content, b"\r\n--%b--\r\n" % boundary.encode()]),
    )
