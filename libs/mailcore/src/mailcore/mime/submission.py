"""A message that somebody hands in whole (RFC 6409): what it says, and the form in which it is stored, signed and sent.

1. the header is a header: every line a field or its continuation, nothing twice that may stand once (RFC 5322 §3.6)
2. exactly one From with exactly one address, in a form that no two readers take for different addresses
3. Resend-* fields are ours: they are read and removed; so are Bcc and Return-Path
4. Date and Message-ID are added where they are missing (RFC 6409 §8.2, §8.3), and a Received that names us and no client
5. 7-bit (RFC 6409 §8.4): so it is signed once, and every retry makes equal bytes
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from mailcore.kit.errors import Invalid, Refused
from mailcore.mime.compose import format_date
from mailcore.mime.fields import Field, addresses
from mailcore.mime.headers import address_header
from mailcore.mime.parse import Message
from mailcore.mime.parts import transfer_encoding
from mailcore.mime.rewrite import field_name, field_value, seven_bit, split_fields
from mailcore.mime.text import decode_header, decode_transfer, decode_words
from mailcore.smtp.address import Mailbox, parse_address, parse_mailbox

HEADER_BYTES = 102_400
"""As of received mail (mime.parse.Limits)."""
PREFIX = b"resend-"
MAX_OPTION = 16_384

_NAME = re.compile(rb"[!-9;-~]{1,76}:")
_ONCE = frozenset(
    (
        *(b"from", b"sender", b"reply-to", b"subject", b"date", b"message-id", b"in-reply-to", b"references"),
        *(
            b"mime-version",
            b"content-type",
            b"content-transfer-encoding",
            b"list-unsubscribe",
            b"list-unsubscribe-post",
        ),
    )
)
_REMOVED = frozenset((b"bcc", b"resent-bcc", b"return-path"))
_MESSAGE_ID = re.compile(rb"<[!-;=?A-~]{1,400}@[!-;=?A-~]{1,400}>\Z")
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~. \t-]*\Z")
"""A display name that needs no quotes; encoded words are of these characters too."""
_VOLATILE = frozenset(
    (b"date", b"message-id", b"received", b"dkim-signature", b"mime-version", b"content-type", b"user-agent")
)
"""Fields that differ when the same mail is put together once more: a retry of the same request is the same request."""


@dataclass(frozen=True, slots=True)
class Submission:
    raw: bytes
    from_: str
    """`Name <a@b.c>` or `a@b.c`, decoded."""
    domain: str
    """Of From, in normal form."""
    sender_domain: str | None
    """Of Sender, where there is one."""
    resent_domains: list[str]
    """Of Resent-From and Resent-Sender, each once: who resends speaks in a name, too (RFC 5322 §3.6.6)."""
    to: list[str]
    cc: list[str]
    reply_to: list[str]
    named: list[str]
    """Addresses of To and Cc in lower case."""
    subject: str
    message_id: str
    """With its angle brackets: the sender's, or ours where it was missing."""
    options: dict[str, str]
    """Resend-* fields: the rest of the name in lower case, and the value."""
    fingerprint: str
    """With a Resend-Idempotency-Key the SHA-256 in hex of what the mail says: the same for the same mail with another Date,
    Message-ID or boundary. Else empty."""

    def as_json(self) -> dict[str, Any]:
        """All but `raw`."""
        return {name: value for name, value in asdict(self).items() if name != "raw"}


def prepare(raw: bytes, *, id_: UUID, by: str, protocol: str, now: datetime) -> Submission:
    """`raw` has CRLF line ends only. `id_` names the Message-ID that may be added, `by` and `protocol` stand in Received.

    Pure. Raises Refused with the reply's code and enhanced code.
    """
    head, body = _split(raw)
    given = split_fields(head)
    _check(given)
    options = _options(given)
    fields = [
        field for field in given if field_name(field) not in _REMOVED and not field_name(field).startswith(PREFIX)
    ]
    mailbox, fields = _from(fields)
    message_id = next((field_value(field) for field in fields if field_name(field) == b"message-id"), b"")
    if not _MESSAGE_ID.match(message_id):
        # RFC 6409 §8.3: missing, or none
        message_id = f"<{id_}@{mailbox.address.domain}>".encode()
        fields = [field for field in fields if field_name(field) != b"message-id"] + [
            b"Message-ID: %b\r\n" % message_id
        ]
    if not any(field_name(field) == b"date" and field_value(field) for field in fields):
        fields = [field for field in fields if field_name(field) != b"date"]
        fields.append(b"Date: %b\r\n" % format_date(now).encode())  # RFC 6409 §8.2
    # RFC 5321 §4.4 without its From clause: where the sender sits is nobody's business, that we have seen it stops loops
    received = f"Received: by {by} (Postroom) with {protocol};\r\n {format_date(now)}\r\n".encode()
    done = seven_bit(b"%b%b\r\n%b" % (received, b"".join(fields), body))
    read = [Field(field_name(field).decode(), field_value(field)) for field in fields]
    return Submission(
        raw=done,
        from_=str(Mailbox(decode_words(mailbox.name), mailbox.address)),
        domain=mailbox.address.domain,
        sender_domain=_sender_domain(read),
        resent_domains=_resent_domains(read),
        to=_shown(read, "to"),
        cc=_shown(read, "cc"),
        reply_to=_shown(read, "reply-to"),
        named=[found.address.lower() for name in ("to", "cc") for found in addresses(read, name, [])],
        subject=next((decode_header(field.value) for field in read if field.name == "subject"), ""),
        message_id=message_id.decode(),
        options=options,
        fingerprint=_fingerprint(given, done) if "idempotency-key" in options else "",
    )


def _split(raw: bytes) -> tuple[bytes, bytes]:
    end = -2 if raw.startswith(b"\r\n") else raw.find(b"\r\n\r\n", 0, HEADER_BYTES)
    if end >= 0:
        return raw[: end + 2], raw[end + 4 :]
    if end == -1 and len(raw) > HEADER_BYTES:
        raise _refused(f"The header is longer than {HEADER_BYTES} octets.", code=552, enhanced="5.3.4")
    return (b"", raw[2:]) if end == -2 else (raw, b"")


def _check(fields: list[bytes]) -> None:
    for field in fields:
        if not _NAME.match(field):
            raise _refused(
                f"{field[:76].rstrip().decode('ascii', 'replace')!a} is no header field. A header is lines of the form "
                "`Name: value`, and an empty line after them."
            )
    for name, count in Counter(map(field_name, fields)).items():
        if count > 1 and (name in _ONCE or name.startswith(PREFIX)):
            raise _refused(f"The header field {name.decode()} stands there {count} times. Give it once.")


def _options(fields: list[bytes]) -> dict[str, str]:
    options = {}
    for field in fields:
        name = field_name(field)
        if name.startswith(PREFIX):
            options[name.removeprefix(PREFIX).decode()] = decode_header(field_value(field)[:MAX_OPTION])
    return options


def _from(fields: list[bytes]) -> tuple[Mailbox, list[bytes]]:
    """Its mailbox, and the fields with a From that reads alike for everyone."""
    place = next((n for n, field in enumerate(fields) if field_name(field) == b"from"), None)
    if place is None:
        raise _refused("The message has no From. Add one with an address of a verified domain.")
    try:
        text = field_value(fields[place]).decode("utf-8")
        mailbox = parse_mailbox(text)
    except (Invalid, UnicodeDecodeError) as error:
        why = f" {error.public}" if isinstance(error, Invalid) else ""
        raise _refused(f"From must hold exactly one address.{why}") from error
    if mailbox.address.smtputf8:
        raise _refused(
            "From holds an address outside ASCII, which this server does not send.", code=553, enhanced="5.6.7"
        )
    before = text.strip().rpartition("<")[0].strip()
    if before.startswith('"') or _PHRASE.match(before):
        return mailbox, fields
    # `ceo@bank.test <me@mine.test>`: some readers would take the name for the address
    named = address_header("From", (Mailbox(decode_words(mailbox.name), mailbox.address),))
    return mailbox, [*fields[:place], named, *fields[place + 1 :]]


def _sender_domain(fields: list[Field]) -> str | None:
    """RFC 5322 §3.6.2. Raises Refused where its domain cannot be told."""
    if not any(field.name == "sender" for field in fields):
        return None
    try:
        [found] = addresses(fields, "sender", [])
        return parse_address(found.address).domain
    except ValueError as error:
        raise _refused("Sender must hold exactly one address.") from error
    except Invalid as error:
        raise _refused("Sender must hold exactly one address.") from error


def _resent_domains(fields: list[Field]) -> list[str]:
    """Raises Refused where they cannot be told."""
    found: dict[str, None] = {}
    for name, shown in (("resent-from", "Resent-From"), ("resent-sender", "Resent-Sender")):
        if not any(field.name == name for field in fields):
            continue
        try:
            named = [parse_address(each.address).domain for each in addresses(fields, name, [])]
        except Invalid:
            named = []
        if not named:
            raise _refused(f"{shown} must hold addresses.")
        found.update(dict.fromkeys(named))
    return list(found)


def _shown(fields: list[Field], name: str) -> list[str]:
    shown = []
    for found in addresses(fields, name, []):
        try:
            shown.append(str(Mailbox(found.name, parse_address(found.address, allow_quoted=True))))
        except Invalid:
            shown.append(found.address)
    return shown


def _fingerprint(given: Iterable[bytes], done: bytes) -> str:
    digest = hashlib.sha256()
    for field in given:
        name = field_name(field)
        if name not in _VOLATILE and not name.startswith(b"x-mailer") and name != PREFIX + b"idempotency-key":
            digest.update(b"%b:%b\n" % (name, field_value(field)))
    for part in (message := Message(done)).leaves:
        content = decode_transfer(message.raw[part.start : part.end], transfer_encoding(part.fields))
        told = {name: value for name, value in part.parameters.items() if name != "boundary"}
        digest.update(repr((part.content_type, sorted(told.items()))).encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _refused(why: str, *, code: int = 550, enhanced: str = "5.6.0") -> Refused:
    return Refused(why, code=code, enhanced=enhanced)
