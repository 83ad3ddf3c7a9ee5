"""Links that need no key: signed, for one thing, for an hour (resend.md §4.5: fetched without auth headers)."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode
from uuid import UUID

from api.errors import ApiError

LINK_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Link:
    download_url: str
    expires_at: str
    """ISO 8601."""


class Links:
    def __init__(self, key: bytes, public_url: str) -> None:
        """`key`: `keyring.derive("link")`."""
        self._key = key
        self._base = public_url.rstrip("/")

    def make(self, org_id: UUID, arrival_id: UUID, what: str, *, now: float | None = None) -> Link:
        """`what`: `raw`, or the id of an attachment."""
        expires = int(time.time() if now is None else now) + LINK_SECONDS
        query = urlencode({"expires": expires, "signature": self._sign(org_id, arrival_id, what, expires)})
        url = f"{self._base}/v1/downloads/{org_id}/{arrival_id}/{what}?{query}"
        return Link(url, datetime.fromtimestamp(expires, UTC).isoformat())

    def check(self, org_id: UUID, arrival_id: UUID, what: str, expires: str, signature: str) -> None:
        """Raises ApiError 403."""
        if not (expires.isascii() and expires.isdigit() and len(expires) < 13):
            raise _refused("This link is not complete.")
        wanted = self._sign(org_id, arrival_id, what, int(expires))
        if not hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace")):
            raise _refused("This link was changed.")
        if int(expires) < time.time():
            raise _refused("This link has expired. Get the email again for a new one.")

    def _sign(self, org_id: UUID, arrival_id: UUID, what: str, expires: int) -> str:
        return hmac.digest(self._key, f"{org_id}\n{arrival_id}\n{what}\n{expires}".encode(), "sha256").hex()


def _refused(message: str) -> ApiError:
    return ApiError(403, "validation_error", message)
