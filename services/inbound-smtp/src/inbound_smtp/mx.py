"""The MX: mail from the world for the domains that receive here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from inbound_smtp.checks.authentication import Asked, BeforeReply
from inbound_smtp.checks.clients import Client, Clients
from inbound_smtp.checks.scanning import Scanned, ScansBeforeReply
from inbound_smtp.counts import Distinct, Window
from inbound_smtp.listener import Listener
from inbound_smtp.recipients import Recipients
from inbound_smtp.session import Session
from inbound_smtp.transaction import Incoming, Transaction
from inbound_smtp.verbs import COMMON, Answer, Later, Verb
from inbound_smtp.verbs.mail import mail
from inbound_smtp.verbs.rcpt import rcpt
from mailcore.blob.base import Spooled
from mailcore.flow.greylist import Greylist
from mailcore.flow.receive import Arrival, Received, Receives, decision
from mailcore.flow.returned import MAX_BYTES, Returned
from mailcore.flow.tables import Tables
from mailcore.kit.log import logger
from mailcore.smtp.envelope import Envelope
from mailcore.smtp.reply import Reply

log = logger(__name__)

COMPLAINTS = frozenset(("abuse", "fbl", "complaints", "postmaster"))
"""Where providers send feedback reports."""
COMPLAINT_BYTES = 64 * 1024
_MARKS = (b"message/feedback-report", b"x-hmxmroriginalrecipient")


@dataclass(slots=True, kw_only=True)
class Mx(Listener):
    verbs: ClassVar[Mapping[str, Verb]] = {**COMMON, "MAIL": mail, "RCPT": rcpt}

    recipients: Recipients
    receives: Receives
    returned: Returned | None = None
    """None: this process has no key to tell our return paths by."""
    before_reply: BeforeReply | None = None
    scans: ScansBeforeReply | None = None
    """None: nothing is refused for not being from whom it says."""
    tables: Tables | None = None
    """None: no route rejects anybody before his mail is there."""
    clients: Clients | None = None
    """None: nothing is asked about who connects."""
    greylist: Greylist | None = None
    unknown: Window = field(default_factory=lambda: Window(0, 600.0))
    """Recipients who are not here, by client."""
    different: Distinct = field(default_factory=lambda: Distinct(0, 600.0))
    """Recipients of domains that take mail to all, by client: each may be a new mailbox."""
    per_sender: Window = field(default_factory=lambda: Window(0, 60.0))
    per_recipient: Window = field(default_factory=lambda: Window(0, 60.0))

    def greylist_passes(self, ip: str) -> bool:
        return self.greylist is None or self.greylist.passes(ip)


class MxSession(Session[Mx]):
    transaction: Incoming | None
    client: asyncio.Future[Client] | None = None
    """What the DNS says of who is there; None: nothing was asked."""

    def open(self) -> None:
        if self.listener.clients is not None:
            self.client = asyncio.ensure_future(self.listener.clients.look(self.peer_ip))

    def extensions(self) -> list[str]:
        return ["SMTPUTF8"]  # RFC 6531

    def take(self, transaction: Transaction[Any], message: bytes | Spooled) -> Answer:
        assert isinstance(transaction, Incoming)  # MAIL made it
        if any(org_id is None for _, org_id in transaction.recipients) or _asks_for_operator(transaction):
            return self._take_report(transaction, message)
        before_reply = self.listener.before_reply
        scans, tenants = self.listener.scans, _tenants(transaction)
        if (before_reply is None or before_reply.needless(tenants)) and (scans is None or scans.needless(tenants)):
            return self._receive(transaction, message, tenants)
        return self._take_proven(transaction, message, tenants)

    async def _take_proven(
        self, transaction: Incoming, message: bytes | Spooled, tenants: Mapping[UUID, Sequence[str]]
    ) -> Reply:
        """Asked about first: whether it is from whom it says, and what is in it."""
        asked, scanned = Asked(None), Scanned()
        mail_from = transaction.mail_from
        if self.listener.before_reply is not None:
            asked = await self.listener.before_reply.ask(
                message, peer_ip=self.peer_ip, helo=self.helo or "", mail_from=mail_from, tenants=tenants
            )
        if asked.refused is None and self.listener.scans is not None:
            facts = self._facts(transaction)
            scanned = await self.listener.scans.ask(
                message, source=self.peer_ip, mail_from=mail_from, facts=facts, auth=asked.auth, tenants=tenants
            )
        refused = asked.refused or scanned.refused
        if refused is not None:
            log.info("refused", peer=self.peer_ip, mail_from=mail_from, reply=str(refused))
            return refused
        later = self._receive(transaction, message, tenants, scanned.decisions, asked, scanned)
        return later.reply(await later.future)

    async def _take_report(self, transaction: Incoming, message: bytes | Spooled) -> Reply:
        """It came to a return path, or where complaints come to: it may also be mail to somebody."""
        head = message if isinstance(message, bytes) else await asyncio.to_thread(message.read, MAX_BYTES)
        for address in [address for address, org_id in transaction.recipients if org_id is None]:
            await self._returned(address, head, transaction)
        told = await self._complaint(head) if _may_be_complaint(transaction, head) else []
        tenants = _tenants(transaction)
        if not tenants:
            return Reply(250, "Ok: the report has been read", "2.0.0")
        later = self._receive(transaction, message, tenants, told)
        return later.reply(await later.future)

    def _receive(
        self,
        transaction: Incoming,
        message: bytes | Spooled,
        tenants: Mapping[UUID, Sequence[str]],
        told: Sequence[dict[str, Any]] = (),
        asked: Asked | None = None,
        scanned: Scanned | None = None,
    ) -> Later:
        arrival = Arrival(
            raw=message,
            envelope=Envelope(
                transaction.mail_from,
                tuple(address for addresses in tenants.values() for address in addresses),
                transaction.smtputf8,
                transaction.body_8bit,
            ),
            facts=self._facts(transaction),
            source=self.peer_ip,
            source_id=None,
            door="smtp",
            tenants=tenants,
            decisions=told,
            auth=asked.auth if asked is not None else None,
            findings=scanned.findings if scanned is not None else None,
        )
        return Later(self.listener.receives.begin(arrival), _stored)

    async def _returned(self, address: str, raw: bytes, transaction: Incoming) -> None:
        """What became of a mail, told to its return path; its row says so when this returns, or an arrival why it does not."""
        if self.listener.returned is not None:
            taken = await self.listener.returned.take(
                address, raw, mail_from=transaction.mail_from, source=self.peer_ip, facts=self._facts(transaction)
            )
            log.info("mail to a return path", peer=self.peer_ip, what=taken.what, why=taken.why)

    async def _complaint(self, raw: bytes) -> list[dict[str, Any]]:
        """It is also mail to its recipient, among whose decisions this stands."""
        taken = None if self.listener.returned is None else await self.listener.returned.complaint(raw)
        if taken is None:
            return []
        log.info("a complaint", peer=self.peer_ip, what=taken.what, why=taken.why)
        return [decision("returned", taken.what, taken.why)]

    def _facts(self, transaction: Incoming) -> dict[str, Any]:
        """What a Received line would say (RFC 5321 §4.4)."""
        protocol = "SMTP" if not self.extended else "UTF8SMTP" if transaction.smtputf8 else "ESMTP"
        return {
            "peer_ip": self.peer_ip,
            "helo": self.helo,
            "protocol": protocol + ("S" if self.tls and self.extended else ""),
            "tls": self.tls,
            "by": self.listener.hostname,
            "body": "8BITMIME" if transaction.body_8bit else "7BIT",
            "connected_at": self.connected_at,
            **({} if transaction.dsn is None else {"dsn": transaction.dsn}),
            **({} if self.client is None else _of_client(self.client)),
        }


def _of_client(client: asyncio.Future[Client]) -> dict[str, Any]:
    found = client.result() if client.done() and not client.cancelled() and client.exception() is None else Client()
    return {"client_name": found.name, "dnsbl": list(found.listed)}


def _stored(done: Received) -> Reply:
    return Reply(250, f"Ok: queued as {next(iter(done.ids.values()))}", "2.0.0")


def _asks_for_operator(transaction: Incoming) -> bool:
    return any(address.partition("@")[0].lower() in COMPLAINTS for address, _ in transaction.recipients)


def _may_be_complaint(transaction: Incoming, raw: bytes) -> bool:
    """Without reading it."""
    return _asks_for_operator(transaction) and any(mark in raw[:COMPLAINT_BYTES].lower() for mark in _MARKS)


def _tenants(transaction: Incoming) -> dict[UUID, list[str]]:
    """Organization → its recipients, each once."""
    found: dict[UUID, dict[str, None]] = {}
    for address, org_id in transaction.recipients:
        if org_id is not None:
            found.setdefault(org_id, {})[address] = None
    return {org_id: list(addresses) for org_id, addresses in found.items()}
