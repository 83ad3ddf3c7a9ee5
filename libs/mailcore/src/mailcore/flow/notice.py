"""Tells the owners of an organization that an endpoint of theirs was disabled: a mail through the ordinary door.

It goes from a verified domain of the organization. Without one, the reason in GET /webhooks/:id is all there is. The mail and the
mark that it was sent are one transaction: it is sent once, also when processes die.
"""

from __future__ import annotations

from uuid import UUID

from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import Refused
from mailcore.kit.log import logger
from mailcore.smtp.address import parse_address
from mailcore.store import webhook_queue, webhooks
from mailcore.store.session import Store

log = logger(__name__)

AT_ONCE = 100

TEXT = """\
The webhook {endpoint} was disabled. {reason}

Events that were waiting for it are marked as failed, and nothing more is posted to it. When the endpoint is well again, enable the
webhook (PATCH /webhooks/{id} with {{"status": "enabled"}}); what failed can then be posted again
(POST /webhooks/{id}/events/<event>/replay).
"""


async def send(store: Store, submits: Submits) -> None:
    """All notices that are due. Never raises: those that could not be sent stay due."""
    after = UUID(int=0)
    while True:
        try:
            async with store.worker() as db:
                due = await webhook_queue.notices_due(db, after, AT_ONCE)
        except Exception as error:
            log.warning("notices of disabled webhooks wait", error=repr(error))
            return
        for webhook_id, org_id in due:
            try:
                await _tell(store, submits, webhook_id, org_id)
            except Exception as error:  # the others are told, and posting goes on
                log.warning("a notice of a disabled webhook waits", webhook_id=str(webhook_id), error=repr(error))
        if len(due) < AT_ONCE:
            return
        after = due[-1][0]


async def _tell(store: Store, submits: Submits, webhook_id: UUID, org_id: UUID) -> None:
    async with store.tenant(org_id) as db:
        webhook = await webhooks.get(db, org_id, webhook_id)
        domain, owners = await webhooks.audience(db, org_id)
    ready = []
    if webhook is not None and domain is not None and owners:
        try:
            ready = await submits.prepare(
                org_id,
                [
                    NewEmail(
                        from_=f"Postroom <webhooks@{domain}>",
                        domain=domain,
                        to=owners,
                        recipients=[parse_address(owner) for owner in owners],
                        subject=f"Webhook disabled: {webhook['endpoint'][:200]}",
                        text=TEXT.format(
                            endpoint=webhook["endpoint"], reason=webhook["disabled_reason"] or "", id=webhook_id
                        ),
                    )
                ],
            )
        except Refused as error:
            log.warning("no notice of a disabled webhook", webhook_id=str(webhook_id), reason=error.public)
    async with store.worker() as db:
        if not await webhook_queue.take_notice(db, webhook_id) or not ready:
            return
        rung = await submits.submit_in(db, ready)
    submits.ring(rung)
