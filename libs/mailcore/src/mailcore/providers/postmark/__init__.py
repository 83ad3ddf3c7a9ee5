"""Postmark: `POST /email`, JSON fields; events with a user and password of their own. Sources: fixtures/README.md."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import SecretStr, StringConstraints

from mailcore.providers.base import Account, EventSource, Token, endpoint
from mailcore.providers.postmark.events import PostmarkEvents
from mailcore.providers.postmark.send import PostmarkSender

BASE_URL = "https://api.postmarkapp.com"


class Postmark(Account):
    vendor: ClassVar[str] = "postmark"

    server_token: Token
    message_stream: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,30}$")] = "outbound"
    """Postmark keeps transactional mail and broadcasts apart: a way for each."""
    webhook_password: SecretStr | None = None
    """Postmark signs nothing: give its webhook the user `postroom` and this password, at least 20 characters. Without it a mail
    counts as delivered once Postmark has taken it."""

    def sender(self, base_url: str | None = None) -> PostmarkSender:
        return PostmarkSender(*endpoint(base_url, BASE_URL), self.server_token.get_secret_value(), self.message_stream)

    def events(self) -> EventSource | None:
        return PostmarkEvents(self.webhook_password.get_secret_value()) if self.webhook_password else None
