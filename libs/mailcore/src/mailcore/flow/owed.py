"""The delivery reports that we owe to who handed a mail in by SMTP (RFC 3461 §6), written and submitted.

1. settle writes who is owed one, in its own transaction (`owe`): nobody for mail of the API or with an empty return path
2. `take`     the rows of one email are claimed, their next try written first
3. `_notice`  what there is to say of them, the mail they are about, composed (dsn.compose)
4. one transaction: the rows get the report, the report goes through the door as any mail does (flow.submit): it is signed, counted,
   tried again, visible. Its return path is empty, so that no report is ever owed for it

Done twice, it is told once: the rows are locked, and have the report or have not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from mailcore.blob.base import BlobStore
from mailcore.dsn.compose import Notice, Told, compose
from mailcore.dsn.report import Action
from mailcore.dsn.wishes import Wishes
from mailcore.flow.parse import raw_of
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import Invalid, MailError, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.smtp.address import parse_address
from mailcore.smtp.reply import Reply
from mailcore.store import owed, waiting
from mailcore.store.owed import Original, Taken
from mailcore.store.session import Store

log = logger(__name__)

PAUSE_SECONDS = 60.0
"""After a first try that failed; doubling."""
MOST_TRIES = 12
FULL_BYTES = 1024 * 1024
"""Of a larger mail only the header comes back."""
LOCAL_PART = "mailer-daemon"


class Reports:
    """One a process."""

    def __init__(
        self, store: Store, submits: Submits, blobs: BlobStore, *, reporter: str, lifetime_seconds: float
    ) -> None:
        """`reporter`: our host's name. `lifetime_seconds`: how long a mail is tried."""
        self._store = store
        self._submits = submits
        self._blobs = blobs
        self._reporter = reporter
        self._lifetime = timedelta(seconds=lifetime_seconds)

    async def tell_due(self) -> int:
        """All that is due. Returns how many reports were submitted."""
        total = 0
        while True:
            async with self._store.worker() as db:
                due = await owed.due(db)
            for email_id in due:
                total += await self.tell(email_id)
            if not due:
                async with self._store.worker() as db:
                    await owed.forget(db)
                return total

    async def tell(self, email_id: UUID) -> int:
        """What is owed for that email, a report an action. Returns how many were submitted. Raises Unavailable."""
        async with self._store.worker() as db:
            taken = await owed.take(db, email_id, pause=PAUSE_SECONDS)
            original = await owed.original(db, email_id) if taken else None
            if original is not None and any(each.action == "delayed" for each in taken):
                taken = _waiting(taken, await waiting.of_email(db, original.org_id, email_id))
            if taken and original is None:
                await owed.give_up(db, email_id, [each.n for each in taken], "The mail it would be about is gone.")
        if original is None:
            return 0
        submitted = 0
        for action in dict.fromkeys(each.action for each in taken):
            rows = [each for each in taken if each.action == action]
            try:
                submitted += await self._tell(original, Action(action), rows)
            except (Invalid, Refused, NotFound) as error:
                await self._given_up(original, rows, error)
            except MailError as error:
                log.warning("a report waits", email_id=str(email_id), error=error.public)
                if rows[0].tries >= MOST_TRIES:
                    await self._given_up(original, rows, error)
        return submitted

    async def _tell(self, original: Original, action: Action, rows: Sequence[Taken]) -> bool:
        wishes = Wishes.from_json(original.dsn)
        if original.domain is None:
            raise Refused("The domain it would come from has been removed.")
        report = await self._email(original, wishes, action, rows)
        ready = await self._submits.prepare(original.org_id, [report])
        async with self._store.worker() as db:
            mine = await owed.told(db, original.id, action.value, [each.n for each in rows], UUID(ready[0].id))
            due = await self._submits.submit_in(db, ready) if mine else None
        if due is None:
            return False
        self._submits.ring(due)
        log.info("report submitted", email_id=str(original.id), action=action.value, report_id=str(ready[0].id))
        return True

    async def _email(self, original: Original, wishes: Wishes, action: Action, rows: Sequence[Taken]) -> NewEmail:
        """Raises Invalid: the sender's address takes no mail."""
        to = parse_address(wishes.mail_from)
        domain = original.domain or ""
        from_ = f"{LOCAL_PART}@{domain}"
        message_id = f"<{uuid7()}@{domain}>"
        raw = await raw_of(self._blobs, original.raw, original.raw_blob)
        notice = Notice(
            reporter=self._reporter,
            from_=from_,
            to=str(to),
            message_id=message_id,
            at=datetime.now(UTC),
            arrived_at=original.arrived_at,
            original=raw,
            original_message_id=original.message_id,
            told=[_told(each, action, wishes, original.arrived_at + self._lifetime) for each in rows],
            # RFC 8689 §5: what was not to be seen on its way there does not come back whole, and under TLS or not at all
            full=wishes.full and len(raw) <= FULL_BYTES and not original.requiretls,
            envid=wishes.envid,
        )
        composed = compose(notice)
        return NewEmail(
            from_=f"Mail Delivery System <{from_}>",
            domain=domain,
            to=[str(to)],
            recipients=[to],
            subject=_header(composed, b"Subject"),
            raw=composed,
            message_id=message_id,
            dsn=Wishes("").as_json(),  # RFC 3464 §2: an empty return path
            requiretls=original.requiretls,
        )

    async def _given_up(self, original: Original, rows: Sequence[Taken], error: MailError) -> None:
        log.warning("a report is given up", email_id=str(original.id), error=error.public)
        async with self._store.worker() as db:
            await owed.give_up(db, original.id, [each.n for each in rows], error.public)


def _waiting(taken: Sequence[Taken], words: Mapping[int, str]) -> list[Taken]:
    """What is late because it waits for something of ours says so, and not what a peer said last."""
    return [
        replace(
            each, mx_host=None, code=451, enhanced_code="4.4.7", reply=f"it waits: {words[each.n]}", rule="no-source"
        )
        if each.action == "delayed" and each.n in words
        else each
        for each in taken
    ]


def _told(row: Taken, action: Action, wishes: Wishes, until: datetime) -> Told:
    reply = None if row.reply is None else Reply(row.code or 451, row.reply, row.enhanced_code)
    if reply is None and row.state == "suppressed":
        reply = Reply(550, "the recipient is on the suppression list: nothing was sent", "5.7.1")
    asked = wishes.of(row.n)
    return Told(
        recipient=row.recipient,
        action=action,
        status=_status(row, action),
        reply=reply,
        peer=row.rule in (None, "null-mx", "report") and row.mx_host is not None,
        orcpt=f"{asked.orcpt_type};{asked.orcpt}" if asked.orcpt else None,
        remote_mta=row.mx_host,
        last_attempt_at=row.last_attempt_at,
        retry_until=until if action is Action.DELAYED else None,
    )


def _status(row: Taken, action: Action) -> str:
    """RFC 3464 §2.3.4: the peer's where its class is the action's."""
    if action is Action.RELAYED:
        return "2.0.0"
    if action is Action.DELAYED:
        return row.enhanced_code if row.enhanced_code and row.enhanced_code.startswith("4.") else "4.4.7"
    if row.state == "expired":
        return "5.4.7"  # RFC 3463 §3.5: delivery time expired
    if row.state == "suppressed":
        return "5.7.1"
    return row.enhanced_code if row.enhanced_code and row.enhanced_code.startswith("5.") else "5.0.0"


def _header(raw: bytes, name: bytes) -> str:
    line = next(line for line in raw.split(b"\r\n") if line.startswith(name + b": "))
    return line[len(name) + 2 :].decode("ascii")
