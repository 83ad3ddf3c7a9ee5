"""RCPT: only for domains that receive here (RFC 5321 §4.1.1.3, §3.6.2), and whoever answers for this server itself (RFC 2142)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_smtp.checks import paths
from inbound_smtp.replies import BAD_SEQUENCE, NO_RELAY, OK, TOO_MANY_RECIPIENTS, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.mx import MxSession


OPERATORS = frozenset(("postmaster", "abuse"))
"""At the name of this server: mail of its operator, in mailboxes of the installation's first organization."""


async def rcpt(session: MxSession, argument: str) -> Reply:
    """Raises Unavailable when nobody can tell whose domain it is: 451."""
    transaction = session.transaction
    if transaction is None:
        return BAD_SEQUENCE
    if len(transaction.recipients) >= session.listener.limits.recipients:
        return TOO_MANY_RECIPIENTS
    try:
        hostname = session.listener.hostname.lower()
        address, bracketed = paths.recipient(argument, smtputf8=transaction.smtputf8, hostname=hostname)
    except paths.Refusal as refusal:
        return refusal.reply
    owner = await session.listener.domains.owner(address.domain)
    org_id = owner.org_id if owner is not None else None
    if org_id is None and address.domain == hostname and address.local.lower() in OPERATORS:
        org_id = await session.listener.domains.operator()
    returned = session.listener.returned
    of_ours = org_id is None and returned is not None and returned.path(str(address)) is not None
    if org_id is None and not of_ours:
        return NO_RELAY
    if not bracketed:
        return syntax(paths.RCPT_FORM)
    transaction.recipients.append((str(address), org_id))
    return OK
