"""Resend: `POST /emails`, JSON fields, idempotency keys; events by Svix. Sources: fixtures/README.md."""

from __future__ import annotations

from typing import ClassVar

from pydantic import SecretStr

from mailcore.providers.base import Account, EventSource, Token, endpoint
from mailcore.providers.resend.events import ResendEvents
from mailcore.providers.resend.send import ResendSender

BASE_URL = "https://api.resend.com"


class Resend(Account):
    vendor: ClassVar[str] = "resend"

    api_key: Token
    """With sending access."""
    signing_secret: SecretStr | None = None
    """`whsec_…` of the webhook that posts to us. Without it a mail counts as delivered once Resend has taken it."""

    def sender(self, base_url: str | None = None) -> ResendSender:
        return ResendSender(*endpoint(base_url, BASE_URL), self.api_key.get_secret_value())

    def events(self) -> EventSource | None:
        return ResendEvents(self.signing_secret.get_secret_value()) if self.signing_secret else None
