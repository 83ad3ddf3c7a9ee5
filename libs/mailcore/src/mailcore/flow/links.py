"""Links that need no key: signed, for one thing, for a time (resend.md §4.5: fetched without auth headers)."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from mailcore.kit.errors import Refused

LINK_SECONDS = 3600
RECEIVED, SENT, IMAGE = "received", "sent", "image"
"""The kinds of email, by where they are kept."""
MARKED = "marked."
"""And the id of an event: received mail with what its post says of it in its header (flow.marking)."""


@dataclass(frozen=True, slots=True)
class Link:
    url: str
    expires_at: str
    """ISO 8601."""


class Links:
    def __init__(self, key: bytes, public_url: str) -> None:
        """`key`: `keyring.derive("link")`."""
        self._key = key
        self._base = public_url.rstrip("/")

    def file(
        self,
        kind: str,
        org_id: UUID,
        email_id: UUID,
        what: str,
        *,
        seconds: int = LINK_SECONDS,
        until: int | None = None,
        now: float | None = None,
    ) -> Link:
        """To a download. `kind`: RECEIVED or SENT; `what`: `raw` or MARKED (received mail), or the id of an attachment. `until`:
        Unix time of the end of what shows the link."""
        now = time.time() if now is None else now
        seconds = seconds if until is None else max(0, min(seconds, until - int(now)))
        return self._make("downloads", kind, org_id, email_id, what, seconds, now)

    def page(self, kind: str, org_id: UUID, email_id: UUID, seconds: int, *, now: float | None = None) -> Link:
        """To the page that shows one email to whoever has the link."""
        return self._make("shared", kind, org_id, email_id, "page", seconds, now)

    def image(self, org_id: UUID, message_id: UUID, url: str, *, now: float | None = None) -> Link:
        """To an image that a message names elsewhere, through us."""
        expires = int(time.time() if now is None else now) + LINK_SECONDS
        signature = self._sign(IMAGE, org_id, message_id, url, expires)
        query = urlencode({"url": url, "expires": expires, "signature": signature})
        at = datetime.fromtimestamp(expires, UTC).isoformat()
        return Link(f"{self._base}/v1/images/{org_id}/{message_id}?{query}", at)

    def check_image(self, org_id: UUID, message_id: UUID, url: str, expires: str, signature: str) -> None:
        """Raises Refused."""
        self.check(IMAGE, org_id, message_id, url, expires, signature)

    def check(self, kind: str, org_id: UUID, email_id: UUID, what: str, expires: str, signature: str) -> None:
        """Raises Refused."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 13):
            raise _refused("This link is not complete.")
        wanted = self._sign(kind, org_id, email_id, what, int(expires))
        if not hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace")):
            raise _refused("This link was changed.")
        if int(expires) < time.time():
            raise _refused("This link has expired. Ask for a new one.")

    def _make(
        self, door: str, kind: str, org_id: UUID, email_id: UUID, what: str, seconds: int, now: float | None
    ) -> Link:
        expires = int(time.time() if now is None else now) + seconds
        query = urlencode({"expires": expires, "signature": self._sign(kind, org_id, email_id, what, expires)})
        path = f"{kind}/{org_id}/{email_id}" + ("" if door == "shared" else f"/{what}")
        return Link(f"{self._base}/v1/{door}/{path}?{query}", datetime.fromtimestamp(expires, UTC).isoformat())

    def _sign(self, kind: str, org_id: UUID, email_id: UUID, what: str, expires: int) -> str:
        signed = f"{kind}\n{org_id}\n{email_id}\n{what}\n{expires}"
        return hmac.digest(self._key, signed.encode(), "sha256").hex()


def _refused(message: str) -> Refused:
    return Refused(message, code=403)
