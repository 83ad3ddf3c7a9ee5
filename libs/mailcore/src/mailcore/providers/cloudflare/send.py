"""A mail as a request to Cloudflare, and its answer, which tells recipients apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from mailcore.kit.errors import Refused
from mailcore.providers.base import (
    Answer,
    Letter,
    Reading,
    Request,
    Verdict,
    failed,
    json_request,
    object_of,
    objects_of,
    strings_of,
    text_of,
)
from mailcore.providers.mapped import author

_OF_THE_ACCOUNT = frozenset((10101, 10102, 10103, 10105, 10203))
"""Token missing, without the right, of the wrong kind; not entitled; sending disabled."""


@dataclass(frozen=True, slots=True)
class CloudflareSender:
    base_url: str
    host: str
    account_id: str
    api_token: str = field(repr=False)
    whole: bool = True
    most_recipients: int = 50
    most_octets: int = 5_242_880

    def request(self, letter: Letter, now: datetime) -> Request:
        try:
            message = letter.content.decode("ascii")
        except UnicodeDecodeError:
            # JSON carries text: 8-bit octets of another charset than UTF-8 would not arrive as they are
            raise Refused("The message has 8-bit octets.", name="8bitmime", code=554, enhanced="5.6.3") from None
        # the sender must be of an onboarded domain, which our return path's subdomain is not: theirs is put in anyway
        body = {"from": author(letter).address, "recipients": list(letter.recipients), "mime_message": message}
        url = f"{self.base_url}/accounts/{self.account_id}/email/sending/send_raw"
        return json_request(url, {"Authorization": f"Bearer {self.api_token}"}, body)

    def read(self, answer: Answer, letter: Letter) -> Reading:
        said = object_of(answer.json())
        result = object_of(said.get("result"))
        if 200 <= answer.status < 300 and said.get("success") is True and result:
            verdicts = _verdicts(result)
            # named nowhere: taken, and nothing more is known
            others = {
                recipient.lower(): verdicts.get(recipient.lower(), Verdict.ACCEPTED) for recipient in letter.recipients
            }
            return Reading(Verdict.ACCEPTED, "accepted by Cloudflare", others=others)
        errors = objects_of(said.get("errors"))
        codes = {error.get("code") for error in errors}
        words = "; ".join(f"{error.get('code')} {text_of(error.get('message'), 200)}" for error in errors[:5])
        verdict = Verdict.ACCOUNT if codes & _OF_THE_ACCOUNT else None
        if verdict is None and 200 <= answer.status < 300:
            verdict = Verdict.LATER  # a success that says otherwise
        return failed(answer, words, verdict)


def _verdicts(result: dict[str, object]) -> dict[str, Verdict]:
    kinds = {"queued": Verdict.ACCEPTED, "delivered": Verdict.DELIVERED, "permanent_bounces": Verdict.BOUNCED}
    verdicts: dict[str, Verdict] = {}
    for name, verdict in kinds.items():
        verdicts.update({each.lower(): verdict for each in strings_of(result.get(name))})
    return verdicts
