"""RCPT: only for domains that receive here (RFC 5321 §4.1.1.3, §3.6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_smtp.checks import paths
from inbound_smtp.replies import BAD_SEQUENCE, NO_RELAY, OK, TOO_MANY_RECIPIENTS, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.mx import MxSession


async def rcpt(session: MxSession, argument: str) -> Reply:
    """Raises Unavailable when nobody can tell whose domain it is: 451."""
    transaction = session.transaction
    if transaction is None:
        return BAD_SEQUENCE
    if len(transaction.recipients) >= session.listener.limits.recipients:
        return TOO_MANY_RECIPIENTS
    try:
        address, bracketed = paths.recipient(argument, smtputf8=transaction.smtputf8)
    except paths.Refusal as refusal:
        return refusal.reply
    owner = await session.listener.domains.owner(address.domain)
    if owner is None:
        return NO_RELAY
    if not bracketed:
        return syntax(paths.RCPT_FORM)
    transaction.recipients.append((str(address), owner.org_id))
    return OK
