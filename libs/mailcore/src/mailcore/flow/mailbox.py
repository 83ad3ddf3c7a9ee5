"""Which mailboxes a mail lies in, by its recipients: their own, those of an alias, or the domain's for all it does not know.

`user+tag@…` lies in the mailbox of `user@…`, unless the domain has no sub-addresses. What a route names stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailcore.flow.in_hand import InHand, mailbox_addresses
from mailcore.store import addresses
from mailcore.store.session import Connection

_WHY = {
    "alias": ("alias", "{} is an alias."),
    "catch_all": ("catch-all", "There is no {}, and its domain takes such mail into one mailbox."),
}


async def name(db: Connection, mails: Sequence[InHand]) -> None:
    """Puts into `boxes` where the recipients in `kept` lead. Role worker."""
    wanted = {(mail.row.org_id, recipient) for mail in mails for recipient in mail.kept}
    found = await addresses.resolve(db, wanted) if wanted else {}
    for mail in mails:
        boxes = list(mail.boxes)
        for recipient in dict.fromkeys(mail.kept):
            led = found.get((mail.row.org_id, recipient))
            if led is None:
                boxes += mailbox_addresses([recipient])
                continue
            boxes += led.boxes
            if led.kind in _WHY:
                what, why = _WHY[led.kind]
                mail.decide("address", what, why.format(recipient), recipient=recipient, mailboxes=list(led.boxes))
        mail.boxes, mail.kept = list(dict.fromkeys(boxes)), []
