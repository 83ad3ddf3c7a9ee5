"""AUTH PLAIN (RFC 4616) and LOGIN: the password is an API key, the user whatever the client likes to send.

The user decides nothing, so it can tell nobody anything: there is one question, whether the key is one, and every refusal has
the same text at the same time after it was asked for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING

from inbound_smtp.replies import BAD_SEQUENCE, syntax
from inbound_smtp.wire import BadLine
from mailcore.kit.errors import Refused
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.submission.session import SubmissionSession

log = logger(__name__)

MOST_FAILURES = 3
"""Of one connection."""
OK = Reply(235, "Authentication successful", "2.7.0")
WRONG = Reply(535, "Authentication failed: the password must be an API key that is active", "5.7.8")
TOO_MANY = Reply(421, "Too many failed logins, try again later", "4.7.0")
NO_TLS = Reply(538, "Encryption required: use STARTTLS first", "5.7.11")
NOT_BASE64 = Reply(501, "That was no base64", "5.5.2")
CANCELLED = Reply(501, "Authentication cancelled", "5.7.0")
_USER = Reply(334, "VXNlcm5hbWU6")
_PASSWORD = Reply(334, "UGFzc3dvcmQ6")
_GO_ON = Reply(334, "")


class _Unread(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


async def auth(session: SubmissionSession, argument: str) -> Reply:
    if session.tls is None:
        return NO_TLS
    if session.helo is None or session.login is not None or session.transaction is not None:
        return BAD_SEQUENCE  # RFC 4954 §4: once a session, and not inside a transaction
    if session.listener.failures.too_many(session.peer_ip):
        return TOO_MANY
    mechanism, _, initial = argument.partition(" ")
    try:
        if mechanism.upper() == "PLAIN":
            token = await _plain(session, initial.strip())
        elif mechanism.upper() == "LOGIN":
            token = await _login(session, initial.strip())
        else:
            return Reply(504, "Mechanisms: PLAIN, LOGIN", "5.5.4") if mechanism else syntax("AUTH mechanism")
    except _Unread as unread:
        return unread.reply
    return await _decide(session, token)


async def _plain(session: SubmissionSession, initial: str) -> str:
    """`authzid NUL user NUL password`."""
    given = _decoded(initial) if initial else await _ask(session, _GO_ON)
    pieces = given.split(b"\0")
    # a wrong form is a wrong password
    return pieces[2].decode("utf-8", "replace") if len(pieces) == 3 else ""


async def _login(session: SubmissionSession, initial: str) -> str:
    if initial:
        _decoded(initial)
    else:
        await _ask(session, _USER)
    return (await _ask(session, _PASSWORD)).decode("utf-8", "replace")


async def _ask(session: SubmissionSession, challenge: Reply) -> bytes:
    line = await session.ask(challenge)
    if isinstance(line, BadLine):
        raise _Unread(Reply(500, "Line too long, or not ended by CRLF", "5.5.2"))
    if line == b"*":
        raise _Unread(CANCELLED)
    return _decoded(line.decode("latin-1"))


def _decoded(text: str) -> bytes:
    if text == "=":
        return b""  # RFC 4954 §4: an empty initial response
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Unread(NOT_BASE64) from None


async def _decide(session: SubmissionSession, token: str) -> Reply:
    """Raises Unavailable: 451, and nobody is blamed."""
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    try:
        key = await session.listener.keys.find(token)
    except Refused:  # suspended, or expired
        key = None
    if key is not None:
        session.login = token
        return OK
    session.failed_logins += 1
    session.listener.failures.note(session.peer_ip)
    log.info("authentication failed", peer=session.peer_ip, failures=session.failed_logins)
    await asyncio.sleep(max(0.0, asked_at + session.listener.failure_seconds - loop.time()))
    return TOO_MANY if session.failed_logins >= MOST_FAILURES else WRONG
