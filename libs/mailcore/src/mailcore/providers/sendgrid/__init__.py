"""Twilio SendGrid: `POST /v3/mail/send`, JSON fields; events signed with ECDSA. Sources: fixtures/README.md."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator

from mailcore.providers.base import Account, EventSource, Token, endpoint
from mailcore.providers.sendgrid.events import SendGridEvents, public_key
from mailcore.providers.sendgrid.send import SendGridSender

BASE_URLS = {"global": "https://api.sendgrid.com", "eu": "https://api.eu.sendgrid.com"}


def _is_key(text: str) -> str:
    public_key(text)
    return text


class SendGrid(Account):
    vendor: ClassVar[str] = "sendgrid"

    api_key: Token
    """With the right "Mail Send"."""
    region: Literal["global", "eu"] = "global"
    verification_key: Annotated[str, AfterValidator(_is_key)] | None = None
    """Of the signed event webhook, as its settings show it (base64). Without it a mail counts as delivered once SendGrid has it."""

    def sender(self, base_url: str | None = None) -> SendGridSender:
        return SendGridSender(*endpoint(base_url, BASE_URLS[self.region]), self.api_key.get_secret_value())

    def events(self) -> EventSource | None:
        return SendGridEvents(public_key(self.verification_key)) if self.verification_key else None
