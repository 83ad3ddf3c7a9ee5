"""Cloudflare Email Sending: `POST /accounts/<id>/email/sending/send_raw`, the whole message. Sources: fixtures/README.md.

Its answer says at once which recipients' hosts took the mail and which refused it. Events come by Cloudflare's queues, with
nothing in them that names the request: they are not read, and what was queued there has no further word.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import StringConstraints

from mailcore.providers.base import Account, Token, endpoint
from mailcore.providers.cloudflare.send import CloudflareSender

BASE_URL = "https://api.cloudflare.com/client/v4"


class Cloudflare(Account):
    vendor: ClassVar[str] = "cloudflare"

    account_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    api_token: Token
    """With the permission to send emails."""

    def sender(self, base_url: str | None = None) -> CloudflareSender:
        return CloudflareSender(*endpoint(base_url, BASE_URL), self.account_id, self.api_token.get_secret_value())
