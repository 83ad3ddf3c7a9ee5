"""RCPT: what becomes of a recipient is decided here, never by a bounce later (RFC 5321 §4.1.1.3, §3.6.2).

1. `checks.paths` reads the address: forms that ask for a further hop are no relay
2. whose is it? a domain that receives here (recipients.py); a return path that we made; whoever answers for this server (RFC 2142);
   the address for reports of a domain that only sends. The next one who knows addresses of his own, reply tokens, gets his line
   in `_elsewhere`
3. is there such an address? unknown: 550 5.1.1
4. does the organization's table of routes reject it, whatever the mail will be (flow.table)
5. the client: blocklists, his name, how much he has sent; has he to come again (flow.greylist)

What is known is decided at once; what must be asked for is waited for by this session alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from inbound_smtp import replies
from inbound_smtp.checks import paths
from inbound_smtp.checks.paths import Destination
from inbound_smtp.recipients import Known
from inbound_smtp.replies import BAD_SEQUENCE, NO_RELAY, NO_SUCH_ADDRESS, OK, TOO_MANY_RECIPIENTS, syntax
from mailcore.flow.conditions import Facts
from mailcore.kit.addresses import client_network
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.mx import MxSession
    from inbound_smtp.verbs import Answer

log = logger(__name__)

OPERATORS = frozenset(("postmaster", "abuse"))
"""At the name of this server: mail of its operator, in mailboxes of the installation's first organization."""


def rcpt(session: MxSession, argument: str) -> Answer:
    """Raises Unavailable when nobody can tell whose domain it is: 451."""
    transaction = session.transaction
    if transaction is None or session.chunking:
        return BAD_SEQUENCE
    if len(transaction.recipients) >= session.listener.limits.recipients:
        return TOO_MANY_RECIPIENTS
    try:
        hostname = session.listener.hostname.lower()
        asked, bracketed = paths.recipient(argument, smtputf8=transaction.smtputf8, hostname=hostname)
    except paths.Refusal as refusal:
        return _refused(session, argument, refusal.reply)
    known = session.listener.recipients.known(asked.address)
    if known is None or not _at_once(session, known):
        return _ask(session, asked, bracketed=bracketed)
    assert known.receiving is not None  # else not at once
    if not bracketed:
        return syntax(paths.RCPT_FORM)
    return _decide(session, asked, known) or _take(session, asked, known.receiving.org_id)


def _at_once(session: MxSession, known: Known) -> bool:
    """Whether everything is here by which it is decided."""
    receiving, listener = known.receiving, session.listener
    if receiving is None or (session.client is not None and not session.client.done()):
        return False
    if receiving.greylisting and not listener.greylist_passes(session.peer_ip):
        return False
    return listener.tables is None or listener.tables.held(receiving.org_id) is not None


async def _ask(session: MxSession, asked: Destination, *, bracketed: bool) -> Reply:
    listener = session.listener
    known = await listener.recipients.find(asked.address)
    if known.receiving is None:
        return await _elsewhere(session, asked, bracketed=bracketed)
    if not bracketed:
        return syntax(paths.RCPT_FORM)
    if listener.tables is not None:
        await listener.tables.of([known.receiving.org_id])
    if session.client is not None:
        await session.client
    refused = _decide(session, asked, known)
    if refused is None and known.receiving.greylisting and listener.greylist is not None:
        seconds = await listener.greylist.wait(session.peer_ip, _sender(session), str(asked.address))
        if seconds:
            text = f"Greylisted: please try again in {seconds:.0f} seconds"
            refused = _refused(session, str(asked.address), Reply(450, text, "4.7.1"))
    return refused or _take(session, asked, known.receiving.org_id)


async def _elsewhere(session: MxSession, asked: Destination, *, bracketed: bool) -> Reply:
    """No domain of an organization's."""
    address, listener = asked.address, session.listener
    org_id = None
    if address.domain == listener.hostname.lower() and address.local.lower() in OPERATORS:
        org_id = await listener.recipients.operator()
    org_id = org_id or await listener.recipients.reports_of(address)
    of_ours = listener.returned is not None and listener.returned.path(str(address)) is not None
    if org_id is None and not of_ours:
        return _refused(session, str(address), NO_RELAY)
    return _take(session, asked, org_id) if bracketed else syntax(paths.RCPT_FORM)


def _decide(session: MxSession, asked: Destination, known: Known) -> Reply | None:
    """Why not, by what is known of the address and of what the client has sent. None: nothing speaks against it."""
    receiving, listener = known.receiving, session.listener
    assert receiving is not None
    recipient, place = str(asked.address), client_network(session.peer_ip)
    if not known.taken:
        if listener.unknown.over(place):
            return _refused(session, recipient, replies.TOO_MANY_UNKNOWN)
        listener.unknown.note(place)
        return _refused(session, recipient, NO_SUCH_ADDRESS)
    if session.client is not None and (not_this_one := session.client.result().refused) is not None:
        return _refused(session, recipient, not_this_one)
    table = listener.tables.held(receiving.org_id) if listener.tables is not None else None
    if table is not None and table.routes:
        rejected = table.refusal(Facts(sender=_sender(session), door="smtp"), recipient)
        if rejected is not None:
            return _refused(session, recipient, Reply(550, rejected[1].message, "5.7.1"))
    folded = recipient.lower()
    if receiving.catch_all != "reject" and not listener.different.takes(place, folded):
        return _refused(session, recipient, replies.TOO_MANY_DIFFERENT)
    if listener.per_sender.over(_sender(session)) or listener.per_recipient.over(folded):
        return _refused(session, recipient, replies.TOO_MUCH)
    return None


def _take(session: MxSession, asked: Destination, org_id: UUID | None) -> Reply:
    transaction = session.transaction
    assert transaction is not None  # one command at a time
    recipient = str(asked.address)
    transaction.recipients.append((recipient, org_id))
    if asked.notify or asked.orcpt:
        transaction.wanted[recipient] = asked
    session.listener.per_recipient.note(recipient.lower())
    return OK


def _sender(session: MxSession) -> str:
    return session.transaction.mail_from.lower() if session.transaction is not None else ""


def _refused(session: MxSession, recipient: str, reply: Reply) -> Reply:
    """Told to whoever looks for a mail that never came."""
    log.info(
        "recipient refused", peer=session.peer_ip, mail_from=_sender(session), rcpt_to=recipient[:320], reply=str(reply)
    )
    return reply
