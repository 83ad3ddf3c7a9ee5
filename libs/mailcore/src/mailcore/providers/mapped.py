"""A composed message as fields, for providers that take no whole message: they compose and sign it anew.

What becomes of it: bodies, attachments and the header fields that mean something to a reader go over. Our octets, signature and
boundaries do not. A message that is more than bodies and attachments (S/MIME, PGP/MIME) is refused: taken apart it would be
another one.

Recipients named in To and Cc stand there, where they are among those who get this request. Others of them get a request of
their own, and would get a second copy if this one named them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailcore.kit.errors import Refused
from mailcore.mime.fields import MailAddress, addresses, read_fields
from mailcore.mime.parse import Message
from mailcore.mime.text import decode_header
from mailcore.providers.base import Letter
from mailcore.smtp.address import Mailbox, parse_address

_OWN = frozenset(
    (
        *("from", "to", "cc", "bcc", "subject", "reply-to", "sender", "date", "message-id", "mime-version"),
        *(
            "dkim-signature",
            "received",
            "return-path",
            "arc-seal",
            "arc-message-signature",
            "arc-authentication-results",
        ),
    )
)
"""Header fields that travel as fields of their own, or that the provider writes."""
_WHOLE = frozenset(("signed", "encrypted", "report"))
"""Multiparts whose meaning is in their form (RFC 1847, RFC 6522)."""

MAX_HEADER = 102_400
"""Octets in which the author is looked for."""


@dataclass(frozen=True, slots=True)
class File:
    filename: str
    content_type: str
    content_id: str | None
    """Without angle brackets."""
    inline: bool
    content: str
    """Base64."""


@dataclass(frozen=True, slots=True)
class Mapped:
    from_: MailAddress
    to: list[MailAddress]
    """Never empty."""
    cc: list[MailAddress]
    bcc: list[MailAddress]
    reply_to: list[MailAddress]
    subject: str
    message_id: str | None
    """With its angle brackets."""
    html: str | None
    text: str | None
    headers: dict[str, str]
    """The name as it was written → the value; of a repeated one the last."""
    files: list[File]


def author(letter: Letter) -> MailAddress:
    """The first of From. Raises Refused."""
    found = addresses(read_fields(letter.content, 0, MAX_HEADER, [])[0], "from", [])
    if not found:
        raise Refused("The message has no From.", code=554, enhanced="5.6.0")
    return found[0]


def mapped(letter: Letter) -> Mapped:
    """Raises Refused."""
    message = Message(letter.content)
    for part in message.multiparts:
        if part.content_type.partition("/")[2] in _WHOLE:
            raise _cannot(f"it is {part.content_type}")
    if message.cut or any(part.content_type == "application/pkcs7-mime" for part in message.leaves):
        raise _cannot("it has too many parts" if message.cut else "it is application/pkcs7-mime")
    found = {name: addresses(message.fields, name, []) for name in ("from", "to", "cc", "reply-to")}
    if not found["from"]:
        raise _cannot("it has no From")
    to, cc, bcc = _seats(letter.recipients, found["to"], found["cc"])
    summary = message.summary()
    bodies = message.bodies()
    html, text = bodies.html or None, bodies.text or None
    files = [_file(message, attachment.n) for attachment in summary.attachments]
    if html is None and text is None:
        text = " "  # a provider takes no mail without a body
    return Mapped(
        from_=found["from"][0],
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=found["reply-to"],
        subject=summary.subject or "",
        message_id=summary.message_id,
        html=html,
        text=text,
        headers=_headers(letter.content, message),
        files=files,
    )


def requests(content: bytes, recipients: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Who shares a request, at most `most` each: those whom the header hides share one only with those it names."""
    if len(recipients) == 1:
        return [tuple(recipients)]
    fields, _ = read_fields(content, 0, len(content), [])
    named = {each.address.lower() for name in ("to", "cc") for each in addresses(fields, name, [])}
    if not any(recipient.lower() in named for recipient in recipients):
        return [(recipient,) for recipient in recipients]
    ordered = sorted(recipients, key=lambda recipient: recipient.lower() not in named)
    first, rest = ordered[:most], ordered[most:]
    return [tuple(first), *(requests(content, rest, most) if rest else ())]


def shown(mailbox: MailAddress) -> str:
    """`Name <a@b.c>`, the name quoted where it needs it."""
    if not mailbox.name:
        return mailbox.address
    try:
        return str(Mailbox(mailbox.name, parse_address(mailbox.address, allow_quoted=True)))
    except Refused:
        return mailbox.address


def _seats(
    recipients: Iterable[str], to: list[MailAddress], cc: list[MailAddress]
) -> tuple[list[MailAddress], list[MailAddress], list[MailAddress]]:
    """Each recipient once: in To or Cc where the header names it, else hidden."""
    left = {recipient.lower(): recipient for recipient in recipients}
    seats: list[list[MailAddress]] = []
    for named in (to, cc):
        seats.append([each for each in named if left.pop(each.address.lower(), None) is not None])
    hidden = [MailAddress("", recipient) for recipient in left.values()]
    if seats[0]:
        return seats[0], seats[1], hidden
    if seats[1]:
        return seats[1], [], hidden
    return hidden, [], []  # `requests` has seen to it that there is one


def _headers(content: bytes, message: Message) -> dict[str, str]:
    written = {}
    head = content.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n"):
        name = line.partition(b":")[0]
        if line[:1] not in (b" ", b"\t"):
            written[name.decode("ascii", "replace").strip().lower()] = name.decode("ascii", "replace").strip()
    return {
        written.get(field.name, field.name): decode_header(field.value)
        for field in message.fields
        if field.name not in _OWN and not field.name.startswith("content-")
    }


def _file(message: Message, n: int) -> File:
    found = message.attachment(n)
    assert found is not None  # it is of this message's own list
    attachment, content = found
    ending = {"message/rfc822": ".eml", "text/calendar": ".ics", "text/plain": ".txt", "text/html": ".html"}
    return File(
        attachment.filename or f"attachment-{n + 1}{ending.get(attachment.content_type, '')}",
        attachment.content_type,
        attachment.content_id,
        attachment.content_disposition == "inline" and attachment.content_id is not None,
        base64.b64encode(content).decode(),
    )


def _cannot(why: str) -> Refused:
    return Refused(
        f"This way out takes mails apart into fields, and this one cannot be: {why}. Let it go by MX, by a smart host, or by "
        "a provider that takes whole messages.",
        name="not-mappable",
        code=554,
        enhanced="5.6.1",
    )
