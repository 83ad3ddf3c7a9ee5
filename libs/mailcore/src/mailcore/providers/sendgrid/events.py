"""What SendGrid posts: arrays of events, signed with ECDSA P-256 over timestamp and body."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailcore.kit.errors import Invalid
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
    text_of,
)

SIGNATURE, TIMESTAMP = "x-twilio-email-event-webhook-signature", "x-twilio-email-event-webhook-timestamp"
MAX_EVENTS = 5_000
"""Of one post; SendGrid stays below 768 KB."""
_ON_ITS_LIST = ("bounced address", "spam reporting address", "unsubscribed address")


@dataclass(frozen=True, slots=True)
class SendGridEvents:
    key: ec.EllipticCurvePublicKey

    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        self._verify(post, now)
        found = post.json()
        if not isinstance(found, list):
            raise Invalid("The body must be an array of events.")
        return [event for each in found[:MAX_EVENTS] if (event := _event(object_of(each))) is not None]

    def _verify(self, post: Post, now: float) -> None:
        at = post.headers.get(TIMESTAMP, "")
        if not (at.isascii() and at.isdigit() and len(at) < 13):
            raise Forged(f"The header {TIMESTAMP} must be there.")
        try:
            signature = base64.b64decode(post.headers.get(SIGNATURE, ""), validate=True)
            self.key.verify(signature, at.encode() + post.body, ec.ECDSA(SHA256()))
        except (InvalidSignature, binascii.Error, ValueError):
            raise Forged("The signature is wrong.") from None
        if abs(now - int(at)) > TOLERANCE_SECONDS:
            raise Forged(f"The timestamp of the signature is more than {TOLERANCE_SECONDS} s away.")


def public_key(text: str) -> ec.EllipticCurvePublicKey:
    """As SendGrid shows it: the base64 of a SubjectPublicKeyInfo. Raises ValueError."""
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("it must be the base64 key that SendGrid's signed event webhook shows")
    return key


def _event(said: dict[str, object]) -> Event | None:
    kind = _kind(said)
    id_, reference, recipient = (text_of(said.get(name)) for name in ("sg_event_id", REFERENCE, "email"))
    if kind is None or not id_ or not reference or not recipient:
        return None
    words = text_of(said.get("reason")) or text_of(said.get("response"))
    reply = None
    if kind is not Kind.DELIVERED and words:
        reply = reply_of(words, code=said.get("status"), permanent=kind is not Kind.DELAYED)
    return Event(id_, kind, reference, recipient, reply)


def _kind(said: dict[str, object]) -> Kind | None:
    name = said.get("event")
    if name == "bounce":
        # `blocked`: refused for now, for a reason that is not the address
        return Kind.BOUNCED
    if name == "dropped":
        reason = text_of(said.get("reason")).lower()
        return Kind.SUPPRESSED if reason.startswith(_ON_ITS_LIST) else Kind.FAILED
    kinds = {"delivered": Kind.DELIVERED, "deferred": Kind.DELAYED, "spamreport": Kind.COMPLAINED}
    return kinds.get(name) if isinstance(name, str) else None
