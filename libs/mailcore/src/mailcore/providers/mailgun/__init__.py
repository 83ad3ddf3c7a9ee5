"""Mailgun: `POST /v3/<domain>/messages.mime`, the whole message; events signed in their body. Sources: fixtures/README.md."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import SecretStr, StringConstraints

from mailcore.providers.base import Account, EventSource, Token, endpoint
from mailcore.providers.mailgun.events import MailgunEvents
from mailcore.providers.mailgun.send import MailgunSender

BASE_URLS = {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$", to_lower=True)]


class Mailgun(Account):
    vendor: ClassVar[str] = "mailgun"

    api_key: Token
    """A sending key of the domain, or the account's."""
    domain: Name | None = None
    """Of the account. None: the domain of each mail's From."""
    region: Literal["us", "eu"] = "us"
    signing_secret: SecretStr | None = None
    """"HTTP webhook signing key" of the account. Without it a mail counts as delivered once Mailgun has taken it."""

    def sender(self, base_url: str | None = None) -> MailgunSender:
        return MailgunSender(*endpoint(base_url, BASE_URLS[self.region]), self.api_key.get_secret_value(), self.domain)

    def events(self) -> EventSource | None:
        return MailgunEvents(self.signing_secret.get_secret_value()) if self.signing_secret else None
