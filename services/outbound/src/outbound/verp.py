"""The envelope of a delivery: a return path of its own (mailcore.dsn.verp), or none where the mail was handed in with none."""

from __future__ import annotations

from mailcore.dsn.verp import Verp
from mailcore.dsn.wishes import Wishes
from mailcore.smtp.dsn import Notify
from mailcore.store.contents import Content
from mailcore.store.deliveries import Leased
from mailcore.transport import Mail


def enveloped(verp: Verp, content: Content, row: Leased, domain: str, octets: bytes) -> Mail:
    """The mail for the transport; its key is the row. `domain`: of the return path.

    What the sender asked to be told is not passed on to the next hop: the return path is ours, so a report comes to us, and what we
    hear of it we tell him (RFC 3461 §5.2.7, as a list does).
    """
    if content.relayed:  # to another server of its own organization: who sent it hears of what becomes of it there
        return Mail((content.passed_on or {})["mail_from"], row.recipient, octets, row._replace(relayed=True))
    if content.dsn is None:
        return Mail(
            f"{verp.local_part(row.email_id, row.n)}@{domain}",
            row.recipient,
            octets,
            row,
            requiretls=content.requiretls,
        )
    wishes = Wishes.from_json(content.dsn)
    if wishes.wants(row.n, Notify.SUCCESS):
        row = row._replace(success=True)
    # RFC 5321 §4.5.5: a report has an empty return path, so that nobody reports about it
    mail_from = f"{verp.local_part(row.email_id, row.n)}@{domain}" if wishes.mail_from else ""
    return Mail(mail_from, row.recipient, octets, row, requiretls=content.requiretls)
