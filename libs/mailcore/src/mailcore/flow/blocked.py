"""Senders that a mailbox, or a whole organization, wants no mail of: it lies among the junk, and no route is tried for it.

Nothing is refused and nothing lost: a sender does not learn that he is blocked, and whoever blocked the wrong one finds his mail.
"""

from __future__ import annotations

from mailcore.flow.in_hand import InHand, mailbox_addresses
from mailcore.flow.table import Table
from mailcore.kit.errors import Invalid
from mailcore.smtp.address import folded, parse_address

MAX_LABELS = 10
"""Of a sender's domain, that are looked for."""


def blocked(mail: InHand, table: Table) -> list[str]:
    """The recipients who want nothing of its sender. Fills `mail.unwanted`."""
    if not table.blocked:
        return []
    who, boxes = _by(mail, table)
    if not boxes:
        return []
    mail.unwanted = boxes
    found = [each for each in mail.row.rcpt_to if "" in boxes or mailbox_addresses([each])[0] in boxes]
    for recipient in found:
        whose = "The organization" if "" in boxes else "The mailbox"
        why = f"{whose} blocks {who}: it lies among the junk, and no route is tried."
        mail.decide("block", "junk", why, recipient=recipient)
    return found


def _by(mail: InHand, table: Table) -> tuple[str, frozenset[str]]:
    """What of it is blocked, and where: by its return path or by its author."""
    who: list[str] = []
    boxes: set[str] = set()
    for address in (mail.row.mail_from, *(one.address for one in mail.summary.from_)):
        local, at, domain = _compared(address).rpartition("@")
        labels = domain.split(".")[-MAX_LABELS:]
        for sender in (f"{local}{at}{domain}", *("@" + ".".join(labels[n:]) for n in range(len(labels)))):
            where = table.blocked.get(sender)
            if where is not None:
                who.append(sender)
                boxes |= where
    return ", ".join(dict.fromkeys(who)), frozenset(boxes)


def _compared(address: str) -> str:
    """As a list has it: beyond ASCII in one form, its domain in A-labels."""
    if not address.isascii():
        try:
            return folded(parse_address(address, allow_quoted=True)).lower()
        except Invalid:
            pass
    return address.lower()
