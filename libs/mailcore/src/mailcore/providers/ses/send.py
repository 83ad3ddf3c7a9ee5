"""A mail as a request to SES, and its answer."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from mailcore.providers.base import (
    REFERENCE,
    Answer,
    Letter,
    Reading,
    Request,
    Verdict,
    accepted,
    failed,
    object_of,
    text_of,
)
from mailcore.providers.ses.sigv4 import signed

_VERDICTS = {
    "AccountSuspendedException": Verdict.ACCOUNT,
    "SendingPausedException": Verdict.ACCOUNT,
    "LimitExceededException": Verdict.ACCOUNT,
    "NotFoundException": Verdict.ACCOUNT,  # the configuration set
    "AccessDeniedException": Verdict.ACCOUNT,
    "TooManyRequestsException": Verdict.LIMITED,
    "ThrottlingException": Verdict.LIMITED,
    "ServiceUnavailable": Verdict.DOWN,
    "ServiceUnavailableException": Verdict.DOWN,
    "RequestExpired": Verdict.LATER,
    "MessageRejected": Verdict.REFUSED,
    "MailFromDomainNotVerifiedException": Verdict.REFUSED,
    "BadRequestException": Verdict.REFUSED,
}


@dataclass(frozen=True, slots=True)
class SesSender:
    base_url: str
    host: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    configuration_set: str | None = None
    whole: bool = True
    most_recipients: int = 1
    """It takes 50, and then a complaint names all who may have made it. Amazon advises one, and counts recipients, not requests."""
    most_octets: int = 30_000_000
    """40 MB as base64."""

    def request(self, letter: Letter, now: datetime) -> Request:
        body: dict[str, Any] = {
            "Content": {"Raw": {"Data": base64.b64encode(letter.content).decode()}},
            # the envelope; who stands in the header's To is the message's own affair
            "Destination": {"ToAddresses": list(letter.recipients)},
            "EmailTags": [{"Name": REFERENCE, "Value": letter.reference}],
        }
        if self.configuration_set:
            body["ConfigurationSetName"] = self.configuration_set
        url, octets = f"{self.base_url}/v2/email/outbound-emails", orjson.dumps(body)
        headers = signed(
            "POST",
            url,
            {"Content-Type": "application/json"},
            octets,
            region=self.region,
            service="ses",
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            now=now,
        )
        return Request("POST", url, headers, octets)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        said = object_of(answer.json())
        if 200 <= answer.status < 300:
            return accepted(answer, "accepted by Amazon SES", text_of(said.get("MessageId")))
        # `MessageRejected:http://internal.amazon.com/…` or, in the body, `com.amazonaws…#MessageRejected`
        kind = (
            answer.headers.get("x-amzn-errortype", "").partition(":")[0]
            or text_of(said.get("__type")).rpartition("#")[2]
        )
        words = text_of(said.get("message")) or text_of(said.get("Message"))
        verdict = _VERDICTS.get(kind)
        if verdict is Verdict.LIMITED and "daily" in words.lower():
            verdict = Verdict.ACCOUNT  # "Daily message quota exceeded": no pause of seconds helps
        return failed(answer, f"{kind}: {words}" if kind else words, verdict)
