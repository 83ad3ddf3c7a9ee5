"""Whom a connection speaks for, and what its message comes to.

1. the key is looked at again for every mail: a revoked one is dead within seconds, on open connections too
2. the message is read and put into the form in which it is sent (mailcore.mime.submission), off the loop when it is large
3. From's domain, and Sender's, must be a verified one that the key may use: flow.submit says so
4. what the sender wants to be told goes with it (RFC 3461): failures, unless MAIL and RCPT say otherwise
5. 250 after the commit, with the email's id
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from inbound_smtp.replies import NO_MEMORY, from_error
from inbound_smtp.session import Session
from inbound_smtp.submission import options
from inbound_smtp.submission.listener import Submission
from inbound_smtp.submission.mail import AUTH_REQUIRED, Handed
from inbound_smtp.transaction import Transaction
from mailcore.blob.base import Spooled
from mailcore.dsn.wishes import Wishes
from mailcore.flow.submit import NewEmail, Once
from mailcore.kit.errors import Conflict, Invalid, Refused
from mailcore.kit.ids import uuid7
from mailcore.mime.submission import Submission as Message
from mailcore.smtp.address import Address
from mailcore.smtp.dsn import DsnRequest, Notify
from mailcore.smtp.reply import Reply
from mailcore.store.api_keys import Key

ENDPOINT = "SMTP"
"""Of idempotency keys: those of submission and of the API never meet."""


class SubmissionSession(Session[Submission]):
    transaction: Handed | None

    def __init__(self, listener: Submission, *, tls: bool = False) -> None:
        super().__init__(listener, tls=tls)
        self.login: str | None = None
        """The API key that was given."""
        self.failed_logins = 0

    def extensions(self) -> list[str]:
        # RFC 4954 §4, RFC 8689 §2: not before TLS. No SMTPUTF8: what we sign and send is 7-bit
        return [] if self.tls is None else ["AUTH PLAIN LOGIN", "REQUIRETLS"]

    def forget(self) -> None:
        super().forget()
        self.login = None

    async def key(self) -> Key | None:
        """What the login's key may do now; None: nobody is logged in, or no longer. Raises Unavailable."""
        if self.login is None:
            return None
        try:
            key = await self.listener.keys.find(self.login)
        except Refused:  # suspended, or expired
            key = None
        if key is None:
            self.login = None
        return key

    async def take(self, transaction: Transaction[Any], message: bytes | Spooled) -> Reply:
        assert isinstance(transaction, Handed)  # MAIL made it
        memory = self.listener.room.memory
        # the form in which it is stored, and its way there; a large one itself, too
        extra = 2 * len(message) if isinstance(message, bytes) else 3 * message.size
        if not memory.take(extra):
            return NO_MEMORY
        try:
            raw = message if isinstance(message, bytes) else await asyncio.to_thread(message.read)
            return await self._take(transaction, raw)
        finally:
            memory.give_back(extra)

    async def _take(self, transaction: Handed, raw: bytes) -> Reply:
        try:
            key = await self.key()
            if key is None:
                return AUTH_REQUIRED
            id_ = await self._submit(key, transaction, raw)
        except Exception as error:
            return _refusal(error)
        return Reply(250, f"Ok: {id_}", "2.0.0")

    async def _submit(self, key: Key, transaction: Handed, raw: bytes) -> str:
        """The email's id, after the commit."""
        submits = self.listener.submits
        message = await self.listener.reader.submission(
            raw,
            id_=uuid7(),
            by=self.listener.hostname,
            protocol="ESMTPSA" if self.extended else "SMTPSA",  # RFC 3848
            now=datetime.now(UTC),
        )
        wanted = [each.address for each in transaction.distinct().values()]
        email = _email(message, wanted)
        email.dsn = wishes(transaction, message).as_json()
        email.requiretls = transaction.requiretls
        if message.sender_domain is not None and message.sender_domain != message.domain:
            await submits.sending_domain(key.org_id, message.sender_domain, only=key.domain_ids, to=wanted)
        for domain in message.resent_domains:
            await submits.sending_domain(key.org_id, domain, only=key.domain_ids, to=wanted)
        once = _once(message, wanted)
        done = await submits.submit(key.org_id, [email], door="submission", only=key.domain_ids, once=once)
        self.listener.keys.counts.add(key.org_id, key.id, len(email.recipients), done.names)
        return str(orjson.loads(done.response)["id"]) if done.response is not None else done.names[0]


def wishes(transaction: Handed, message: Message) -> Wishes:
    """Nobody is told of mail that programs send to many, unless it was asked for (reliability A14)."""
    asked = any(each.notify for each in transaction.recipients)
    if not asked and _AUTOMATIC.search(message.raw.partition(b"\r\n\r\n")[0]):
        never = DsnRequest(notify=frozenset((Notify.NEVER,)))
        return Wishes(transaction.mail_from, (never,) * len(transaction.distinct()))
    return Wishes(transaction.mail_from, transaction.requests())


# RFC 3834 §2; RFC 2919
_AUTOMATIC = re.compile(rb"(?im)^(?:auto-submitted:[ \t]*auto-|precedence:[ \t]*(?:bulk|list|junk)|list-id:)")


def _email(message: Message, recipients: list[Address]) -> NewEmail:
    """Raises Invalid for options that cannot be read."""
    named = set(message.named)
    asked = options.read(message.options)
    return NewEmail(
        from_=message.from_,
        domain=message.domain,
        to=message.to,
        cc=message.cc or None,
        # whom the header does not name gets a blind copy
        bcc=[str(address) for address in recipients if str(address).lower() not in named] or None,
        reply_to=message.reply_to or None,
        recipients=recipients,
        subject=message.subject,
        tags=asked.tags,
        scheduled_at=asked.scheduled_at,
        track_opens=asked.track_opens,
        track_clicks=asked.track_clicks,
        raw=message.raw,
        message_id=message.message_id,
    )


def _once(message: Message, recipients: list[Address]) -> Once | None:
    """Of `Resend-Idempotency-Key`: the same message to the same recipients is sent once. Raises Invalid."""
    key = options.idempotency_key(message.options)
    if key is None:
        return None
    to = "\n".join(sorted({str(address).lower() for address in recipients}))
    fingerprint = hashlib.sha256(f"{message.fingerprint}\n{to}".encode()).digest()
    return Once(ENDPOINT, key, fingerprint, lambda ids: orjson.dumps({"id": ids[0]}))


def _refusal(error: Exception) -> Reply:
    if isinstance(error, Conflict) and error.name == "concurrent_idempotent_requests":
        return Reply(451, error.public, "4.7.1")  # what the other one comes to can be asked for in a moment
    if isinstance(error, Invalid):
        return Reply(550, error.public, "5.6.0")
    return from_error(error)
