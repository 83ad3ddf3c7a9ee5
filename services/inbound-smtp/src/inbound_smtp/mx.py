"""The MX: mail from the world for the domains that receive here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from inbound_smtp.domains import Domains
from inbound_smtp.listener import Listener
from inbound_smtp.replies import from_error
from inbound_smtp.session import Session
from inbound_smtp.transaction import Transaction
from inbound_smtp.verbs import COMMON, Verb
from inbound_smtp.verbs.mail import mail
from inbound_smtp.verbs.rcpt import rcpt
from mailcore.flow.receive import Arrival, Receives, decision
from mailcore.flow.returned import Returned
from mailcore.kit.log import logger
from mailcore.smtp.envelope import Envelope
from mailcore.smtp.reply import Reply

log = logger(__name__)

Recipient: TypeAlias = tuple[str, UUID | None]
"""Address, and the organization it belongs to; None: a return path that we made, and its mail is a report."""


COMPLAINTS = frozenset(("abuse", "fbl", "complaints", "postmaster"))
"""Where providers send feedback reports."""
COMPLAINT_BYTES = 64 * 1024
_MARKS = (b"message/feedback-report", b"x-hmxmroriginalrecipient")


@dataclass(slots=True, kw_only=True)
class Mx(Listener):
    verbs: ClassVar[Mapping[str, Verb]] = {**COMMON, "MAIL": mail, "RCPT": rcpt}

    domains: Domains
    receives: Receives
    returned: Returned | None = None
    """None: this process has no key to tell our return paths by."""


class MxSession(Session[Mx]):
    transaction: Transaction[Recipient] | None

    def extensions(self) -> list[str]:
        # RFC 2034, RFC 6152, RFC 6531
        return ["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"]

    async def take(self, transaction: Transaction[Recipient], raw: bytes) -> Reply:
        try:
            for address in [address for address, org_id in transaction.recipients if org_id is None]:
                await self._returned(address, raw, transaction)
            told = await self._complaint(raw) if _may_be_complaint(transaction, raw) else []
        except Exception as error:
            return from_error(error)
        tenants = _tenants(transaction)
        if not tenants:
            return Reply(250, "Ok: the report has been read", "2.0.0")
        arrival = Arrival(
            raw=raw,
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
        )
        try:
            done = await self.listener.receives.receive(arrival)
        except Exception as error:
            return from_error(error)
        first = next(iter(tenants))
        return Reply(250, f"Ok: queued as {done.ids[first]}", "2.0.0")

    async def _returned(self, address: str, raw: bytes, transaction: Transaction[Recipient]) -> None:
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

    def _facts(self, transaction: Transaction[Recipient]) -> dict[str, Any]:
        """What a Received line would say (RFC 5321 §4.4)."""
        protocol = "SMTP" if not self.extended else "UTF8SMTP" if transaction.smtputf8 else "ESMTP"
        return {
            "peer_ip": self.peer_ip,
            "helo": self.helo,
            "protocol": protocol + ("S" if self.tls and self.extended else ""),
            "tls": self.tls,
            "by": self.listener.hostname,
            "body": "8BITMIME" if transaction.body_8bit else "7BIT",
            "connected_at": self.connected_at.isoformat(),
        }


def _may_be_complaint(transaction: Transaction[Recipient], raw: bytes) -> bool:
    """Without reading it."""
    asked = any(address.partition("@")[0].lower() in COMPLAINTS for address, _ in transaction.recipients)
    return asked and any(mark in raw[:COMPLAINT_BYTES].lower() for mark in _MARKS)


def _tenants(transaction: Transaction[Recipient]) -> dict[UUID, list[str]]:
    """Organization → its recipients, each once."""
    found: dict[UUID, dict[str, None]] = {}
    for address, org_id in transaction.recipients:
        if org_id is not None:
            found.setdefault(org_id, {})[address] = None
    return {org_id: list(addresses) for org_id, addresses in found.items()}
