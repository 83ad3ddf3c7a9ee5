"""What Resend posts about a mail, signed as Svix signs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailcore import events as webhooks
from mailcore.kit.errors import Invalid
from mailcore.providers.base import (
    REFERENCE,
    Event,
    Fetch,
    Forged,
    Kind,
    Post,
    object_of,
    reply_of,
    strings_of,
    text_of,
)
from mailcore.smtp.address import parse_mailbox
from mailcore.smtp.reply import Reply

_KINDS = {
    "email.delivered": Kind.DELIVERED,
    "email.delivery_delayed": Kind.DELAYED,
    "email.bounced": Kind.BOUNCED,
    "email.failed": Kind.FAILED,
    "email.suppressed": Kind.SUPPRESSED,
    "email.complained": Kind.COMPLAINED,
}


@dataclass(frozen=True, slots=True)
class ResendEvents:
    signing_secret: str = field(repr=False)

    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        try:
            id_ = webhooks.verify(webhooks.read_secret(self.signing_secret), post.headers, post.body, now=now)
        except Invalid as error:
            raise Forged(error.public) from error
        event = object_of(post.json())
        kind = _KINDS.get(text_of(event.get("type")))
        about = object_of(event.get("data"))
        reference = text_of(object_of(about.get("tags")).get(REFERENCE))
        if kind is None or not reference:
            return []
        reply = _reply(kind, about)
        recipients = [_bare(each) for each in strings_of(about.get("to"))]
        # it names all that the request named, whomever it is about
        unsure = len(recipients) > 1
        return [Event(f"{id_}:{recipient}", kind, reference, recipient, reply, unsure) for recipient in recipients]


def _bare(mailbox: str) -> str:
    """As the request had it: perhaps with a name."""
    try:
        return str(parse_mailbox(mailbox).address)
    except Invalid:
        return mailbox


def _reply(kind: Kind, about: dict[str, object]) -> Reply | None:
    if kind is Kind.BOUNCED:
        bounce = object_of(about.get("bounce"))
        said = bounce.get("diagnosticCode")
        words = text_of(said[0]) if isinstance(said, list) and said else text_of(bounce.get("message"))
        return reply_of(words, permanent=bounce.get("type") != "Transient")
    if kind is Kind.FAILED:
        return reply_of(text_of(object_of(about.get("failed")).get("reason")), permanent=True)
    if kind is Kind.SUPPRESSED:
        return reply_of(text_of(object_of(about.get("suppressed")).get("message")), permanent=True)
    return None
