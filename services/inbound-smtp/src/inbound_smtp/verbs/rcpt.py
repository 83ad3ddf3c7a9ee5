"""RCPT: only for domains that receive here (RFC 5321 §4.1.1.3, §3.6.2), and whoever answers for this server itself (RFC 2142)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING
from uuid import UUID

from inbound_smtp.checks import paths
from inbound_smtp.replies import BAD_SEQUENCE, NO_RELAY, OK, TOO_MANY_RECIPIENTS, syntax
from inbound_smtp.transaction import Transaction
from mailcore.smtp.address import Address
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.mx import MxSession, Recipient


OPERATORS = frozenset(("postmaster", "abuse"))
"""At the name of this server: mail of its operator, in mailboxes of the installation's first organization."""


def rcpt(session: MxSession, argument: str) -> Reply | Awaitable[Reply]:
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
    known = session.listener.domains.known(address.domain)
    if known is not None and known[0] is not None:
        return _take(transaction, address, known[0].org_id, bracketed=bracketed)
    return _ask(session, transaction, address, bracketed=bracketed)


async def _ask(session: MxSession, transaction: Transaction[Recipient], address: Address, *, bracketed: bool) -> Reply:
    domains = session.listener.domains
    owner = await domains.owner(address.domain)
    org_id = owner.org_id if owner is not None else None
    if org_id is None and address.domain == session.listener.hostname.lower() and address.local.lower() in OPERATORS:
        org_id = await domains.operator()
    returned = session.listener.returned
    of_ours = org_id is None and returned is not None and returned.path(str(address)) is not None
    if org_id is None and not of_ours:
        return NO_RELAY
    return _take(transaction, address, org_id, bracketed=bracketed)


def _take(transaction: Transaction[Recipient], address: Address, org_id: UUID | None, *, bracketed: bool) -> Reply:
    if not bracketed:
        return syntax(paths.RCPT_FORM)
    transaction.recipients.append((str(address), org_id))
    return OK
