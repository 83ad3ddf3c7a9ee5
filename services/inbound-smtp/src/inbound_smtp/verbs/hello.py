"""EHLO, HELO, STARTTLS."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from inbound_smtp.replies import BAD_SEQUENCE, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.session import Session

_NAME = re.compile(r"[!-~]{1,255}\Z")


def ehlo(session: Session[Any], argument: str) -> Reply:
    if not _NAME.match(argument):
        return syntax("EHLO hostname")
    session.hello(argument, extended=True)
    listener = session.listener
    offers = [
        listener.hostname,
        "PIPELINING",  # RFC 2920
        f"SIZE {listener.limits.message_bytes}",  # RFC 1870
        # RFC 3207 §4.2: not again within TLS
        *(["STARTTLS"] if listener.certificate is not None and session.tls is None else []),
        *("ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "CHUNKING"),  # RFC 2034, RFC 6152, RFC 3461, RFC 3030
        *session.extensions(),
    ]
    return Reply(250, "\n".join(offers))


def helo(session: Session[Any], argument: str) -> Reply:
    if not _NAME.match(argument):
        return syntax("HELO hostname")
    session.hello(argument, extended=False)
    return Reply(250, session.listener.hostname)


def starttls(session: Session[Any], argument: str) -> Reply:
    if argument:
        return syntax("STARTTLS")
    if session.listener.certificate is None:
        return Reply(502, "TLS is not offered", "5.5.1")
    if session.tls is not None:
        return BAD_SEQUENCE
    session.upgrade = True
    return Reply(220, "Ready to start TLS", "2.0.0")
