"""What Postmark posts: one record, over basic authentication."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailcore.providers.base import (
    REFERENCE,
    Event,
    Fetch,
    Forged,
    Kind,
    Post,
    basic,
    object_of,
    reply_of,
    same,
    text_of,
)

USER = "postroom"
_SOFT = frozenset(("SoftBounce", "DnsError", "Unknown", "OpenRelayTest"))
"""Types of bounce after which Postmark goes on with the address."""
_NO_BOUNCE = frozenset(("AutoResponder", "AddressChange", "Subscribe", "Unsubscribe", "ChallengeVerification"))
"""Types that say nothing about whether the mail arrived."""


@dataclass(frozen=True, slots=True)
class PostmarkEvents:
    password: str = field(repr=False)

    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        if not same(post.headers.get("authorization", ""), basic(USER, self.password)):
            raise Forged(f"The webhook must send the user `{USER}` and the password of this way.")
        said = object_of(post.json())
        kind = _kind(said)
        reference = text_of(object_of(said.get("Metadata")).get(REFERENCE))
        recipient = text_of(said.get("Recipient")) or text_of(said.get("Email"))
        if kind is None or not reference or not recipient:
            return []
        # a delivery has no id of its own: it happens once a message and recipient
        id_ = said.get("ID") or f"{said.get('MessageID')}:{recipient.lower()}"
        reply = None
        if kind in (Kind.BOUNCED, Kind.DELAYED):
            words = text_of(said.get("Details")) or text_of(said.get("Description"))
            reply = reply_of(words, permanent=kind is Kind.BOUNCED and said.get("Type") not in _SOFT)
        return [Event(f"{kind}:{id_}", kind, reference, recipient, reply)]


def _kind(said: dict[str, object]) -> Kind | None:
    match said.get("RecordType"):
        case "Delivery":
            return Kind.DELIVERED
        case "SpamComplaint":
            return Kind.COMPLAINED
        case "Bounce":
            if said.get("Type") == "Transient":  # "message delayed"
                return Kind.DELAYED
            return None if said.get("Type") in _NO_BOUNCE else Kind.BOUNCED
    return None
