"""MAIL and RCPT after AUTH (RFC 6409 §4.3): the return path is ours, so MAIL may name anybody; recipients are anywhere.

Whom MAIL names is told what becomes of the mail, as MAIL and RCPT ask for it (RFC 3461 §4). REQUIRETLS goes with the mail as far
as we can see it (RFC 8689 §4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inbound_smtp.checks import paths
from inbound_smtp.checks.paths import Destination
from inbound_smtp.replies import BAD_SEQUENCE, OK, TOO_BIG, TOO_MANY_RECIPIENTS
from inbound_smtp.transaction import Transaction
from mailcore.smtp.dsn import DsnRequest, Ret
from mailcore.smtp.reply import Reply
from mailcore.store.api_keys import Key

if TYPE_CHECKING:
    from inbound_smtp.submission.session import SubmissionSession

NO_TLS = Reply(530, "Use STARTTLS first", "5.7.0")
AUTH_REQUIRED = Reply(530, "Authentication required: the user is anything, the password an API key", "5.7.0")


@dataclass(slots=True)
class Handed(Transaction[Destination]):
    """A mail in the making, and how its sender wants to hear of it."""

    ret: Ret | None = None
    envid: str | None = None
    requiretls: bool = False

    def distinct(self) -> dict[str, Destination]:
        """By address in lower case, in the order of RCPT; of one that was named twice, all is told that either asked for."""
        found: dict[str, Destination] = {}
        for each in self.recipients:
            before = found.setdefault(str(each.address).lower(), each)
            if before is not each and each.notify:
                found[str(each.address).lower()] = Destination(
                    before.address, before.notify | each.notify, before.orcpt or each.orcpt
                )
        return found

    def requests(self) -> tuple[DsnRequest, ...]:
        """One a distinct recipient."""
        return tuple(
            DsnRequest(self.ret, self.envid, each.notify, *(each.orcpt or ("rfc822", None)))
            for each in self.distinct().values()
        )


async def mail(session: SubmissionSession, argument: str) -> Reply:
    """Raises Unavailable: 451."""
    if session.helo is None:
        return Reply(503, "Send EHLO or HELO first", "5.5.1")
    if session.tls is None:
        return NO_TLS  # RFC 3207 §4
    if session.transaction is not None:
        return BAD_SEQUENCE
    key = await session.key()
    if key is None:
        return AUTH_REQUIRED
    try:
        asked = paths.mail(argument, smtputf8=False, auth=True, dsn=True, requiretls=True)
    except paths.Refusal as refusal:
        return refusal.reply
    # RFC 1870 §6.1: known to be too big before it is sent
    if asked.size is not None and asked.size > session.listener.limits.message_bytes:
        return TOO_BIG
    if await _too_fast(session, key):
        return Reply(451, "Too many requests, try again in a second", "4.7.1")
    session.transaction = Handed(
        asked.sender,
        smtputf8=False,
        body_8bit=asked.body_8bit,
        ret=asked.ret,
        envid=asked.envid,
        requiretls=asked.requiretls,
    )
    return OK


def rcpt(session: SubmissionSession, argument: str) -> Reply:
    transaction = session.transaction
    if transaction is None or session.chunking:
        return BAD_SEQUENCE
    if len(transaction.recipients) >= session.listener.limits.recipients:
        return TOO_MANY_RECIPIENTS
    try:
        transaction.recipients.append(paths.destination(argument))
    except paths.Refusal as refusal:
        return refusal.reply
    return OK


async def _too_fast(session: SubmissionSession, key: Key) -> bool:
    """A mail is a request: it counts with the organization's requests to the API."""
    rate = session.listener.rate
    limit = rate.limit if key.rate_limit is None else key.rate_limit
    return bool(rate.limit and limit) and (await rate.take(key.org_id, limit)).exceeded
