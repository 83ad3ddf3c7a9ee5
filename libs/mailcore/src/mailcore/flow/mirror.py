"""The mirror of a user's IMAP account: mail that merely exists somewhere comes in here.

1. open the folder for reading only
2. list the UIDs above the watermark
3. fetch their headers, a window at a time
4. one transaction a window: its messages, their threads and words, the watermark; idempotent on (folder, UIDVALIDITY, UID)

A crash anywhere costs the window in hand, which is fetched again. Nothing is ever marked as seen.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from mailcore.flow import threads, words
from mailcore.kit import failpoint
from mailcore.kit.clock import Clock
from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Guard
from mailcore.kit.ids import uuid7
from mailcore.mime.fields import MailAddress
from mailcore.mime.parse import Message
from mailcore.store import accounts
from mailcore.store.accounts import Account, Folder, MirroredMessage
from mailcore.store.session import Store
from mailcore.transport.imap.client import FetchedMail, ImapClient, Security

WINDOW = 100
"""Mails fetched and stored at once."""


class LeaseLost(Unavailable):
    """Another worker has the account now."""


@dataclass(frozen=True, slots=True)
class Login:
    host: str
    port: int
    security: Security
    username: str
    password: str


@functools.cache
def _system_authorities() -> ssl.SSLContext:
    """Reading them takes tens of milliseconds, hence once."""
    return ssl.create_default_context()


class ImapDoor:
    """Signs in to servers that tenants name: guarded, over TLS that is checked, within a deadline."""

    def __init__(
        self, guard: Guard, *, ports: Collection[int] = (143, 993), ca_file: str | None = None, timeout: float = 30.0
    ) -> None:
        self._guard = guard
        self._ports = ports or None
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else _system_authorities()
        self._timeout = timeout

    @asynccontextmanager
    async def sign_in(self, login: Login) -> AsyncIterator[ImapClient]:
        """Raises Refused (Blocked, SignInFailed, certificate) when the person must act, Unavailable otherwise."""
        addresses = await self._guard.check_host(login.host, login.port, ports=self._ports)
        async with ImapClient.connect(
            login.host, login.port, addresses=addresses, security=login.security, tls=self._tls, timeout=self._timeout
        ) as client:
            await client.login(login.username, login.password)
            yield client

    async def try_login(self, login: Login) -> None:
        """Whether the login works and its INBOX opens. Raises as sign_in."""
        async with self.sign_in(login) as client:
            await client.examine("INBOX")
            await client.logout()


async def mirror_inbox(
    store: Store,
    door: ImapDoor,
    account: Account,
    worker: int,
    password: str,
    *,
    clock: Clock,
    alive: Callable[[], bool] = lambda: True,
) -> int:
    """Brings the account's INBOX in step; how many mails were new. Raises Refused, Unavailable."""
    login = Login(account.host, account.port, Security(account.security), account.username, password)
    async with door.sign_in(login) as client:
        selected = await client.examine("INBOX")
        async with store.worker() as db:
            folder = await accounts.open_folder(db, account, uuid7(), "INBOX", selected.uidvalidity)
        uids = await client.uids_from(folder.watermark + 1) if selected.exists else []
        for start in range(0, len(uids), WINDOW):
            if not alive():
                raise LeaseLost("This worker's lease ran out.")
            window = uids[start : start + WINDOW]
            messages = [_message(account, folder, mail, clock) for mail in await client.headers(window)]
            failpoint.hit("f19")
            async with store.worker() as db:
                if not await accounts.hold(db, account, worker):
                    raise LeaseLost("Another worker has this account.")
                missing = await accounts.not_yet(db, folder, [message.uid for message in messages])
                new = await threads.assign(db, [message for message in messages if message.uid in missing])
                await accounts.mirror(db, folder, new, window[-1])
            folder = replace(folder, watermark=window[-1])
        await client.logout()
        return len(uids)


def _message(account: Account, folder: Folder, mail: FetchedMail, clock: Clock) -> MirroredMessage:
    summary = Message(mail.header).summary()
    received_at = mail.internal_date or clock.now()
    found_by = words.tsvector(summary, org_id=account.org_id, received_at=received_at)
    return MirroredMessage(
        id=uuid7(),
        org_id=account.org_id,
        mailbox_id=folder.mailbox_id,
        uid=mail.uid,
        message_id=summary.message_id,
        from_=_shown(summary.from_[0]) if summary.from_ else None,
        to=[_shown(one) for one in summary.to],
        cc=[_shown(one) for one in summary.cc],
        subject=summary.subject,
        date=summary.date,
        size=mail.size,
        flags=list(mail.flags),
        received_at=received_at,
        reply_to=[_shown(one) for one in summary.reply_to],
        doubts=summary.doubts,
        words=words.of_mailbox(found_by, words.mark(account.org_id, received_at), folder.mailbox_id),
        related=threads.related(summary),
    )


def _shown(one: MailAddress) -> str:
    return f"{one.name} <{one.address}>" if one.name else one.address
