"""What Mailgun posts: one event, whose signature stands in the body and covers a timestamp and a token, not the event.

So a post is as secret as the way it came (https), and the token is what may come once: it is the event's id.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from mailcore.providers.base import (
    REFERENCE,
    TOLERANCE_SECONDS,
    Event,
    Fetch,
    Forged,
    Kind,
    Post,
    object_of,
    reply_of,
    same,
    text_of,
)
from mailcore.smtp.reply import Reply

_ON_ITS_LIST = ("suppress-bounce", "suppress-complaint", "suppress-unsubscribe")


@dataclass(frozen=True, slots=True)
class MailgunEvents:
    signing_secret: str = field(repr=False)

    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        said = object_of(post.json())
        token = self._verify(object_of(said.get("signature")), now)
        about = object_of(said.get("event-data"))
        kind = _kind(about)
        reference = text_of(object_of(about.get("user-variables")).get(REFERENCE))
        recipient = text_of(about.get("recipient"))
        if kind is None or not reference or not recipient:
            return []
        return [Event(token, kind, reference, recipient, _reply(kind, about))]

    def _verify(self, given: dict[str, object], now: float) -> str:
        at, token, signature = (text_of(given.get(name), 200) for name in ("timestamp", "token", "signature"))
        if not (at.isascii() and at.isdigit() and len(at) < 13 and token):
            raise Forged("The body must hold `signature` with timestamp, token and signature.")
        expected = hmac.digest(
            self.signing_secret.encode(), (at + token).encode("utf-8", "replace"), hashlib.sha256
        ).hex()
        if not same(signature, expected):
            raise Forged("The signature is wrong.")
        if abs(now - int(at)) > TOLERANCE_SECONDS:
            raise Forged(f"The timestamp of the signature is more than {TOLERANCE_SECONDS} s away.")
        return token


def _kind(about: dict[str, object]) -> Kind | None:
    name = about.get("event")
    if name == "failed":
        if about.get("severity") == "temporary":
            return Kind.DELAYED
        if about.get("reason") in _ON_ITS_LIST:
            return Kind.SUPPRESSED
        return Kind.BOUNCED if about.get("reason") == "bounce" else Kind.FAILED
    kinds = {"delivered": Kind.DELIVERED, "complained": Kind.COMPLAINED, "rejected": Kind.FAILED}
    return kinds.get(name) if isinstance(name, str) else None


def _reply(kind: Kind, about: dict[str, object]) -> Reply | None:
    if kind in (Kind.DELIVERED, Kind.COMPLAINED):
        return None
    status = object_of(about.get("delivery-status"))
    words = text_of(status.get("message")) or text_of(status.get("description"))
    words = words or text_of(object_of(about.get("reject")).get("reason")) or text_of(about.get("reason"))
    return reply_of(words, code=status.get("code"), permanent=kind is not Kind.DELAYED)
