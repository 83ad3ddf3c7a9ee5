"""Amazon SES: `POST /v2/email/outbound-emails`, the whole message, signed by SigV4; events by SNS. Sources: fixtures/README.md.

SES writes its own Message-ID and Date into what passes, so that a signature of ours over them breaks: let SES sign for the domain
("Easy DKIM") and DMARC passes by that.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import SecretStr, StringConstraints

from mailcore.providers.base import Account, EventSource, endpoint
from mailcore.providers.ses.events import SesEvents
from mailcore.providers.ses.send import SesSender

Region = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}$")]


class Ses(Account):
    vendor: ClassVar[str] = "ses"

    region: Region
    access_key_id: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{16,128}$")]
    secret_access_key: SecretStr
    """Of a user that may ses:SendEmail and ses:SendRawEmail."""
    configuration_set: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Names where events go."""
    topic_arn: (
        Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$")]
        | None
    ) = None
    """The SNS topic that the configuration set publishes to, and the only one whose posts are believed. Without it a mail counts as
    delivered once SES has taken it."""

    def sender(self, base_url: str | None = None) -> SesSender:
        own = f"https://email.{self.region}.{_suffix(self.region)}"
        return SesSender(
            *(*endpoint(base_url, own), self.region, self.access_key_id),
            self.secret_access_key.get_secret_value(),
            self.configuration_set,
        )

    def events(self) -> EventSource | None:
        return SesEvents(self.topic_arn) if self.topic_arn else None


def _suffix(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
