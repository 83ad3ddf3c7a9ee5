"""Which thread a new message belongs to. In the transaction that stores it, for a batch at once.

In this order, within its mailbox; the first that leads to a thread decides (docs/messages.md):

1. In-Reply-To            a Message-ID that a message there has, or names itself
2. References             the newest first
3. Message-ID             what came before has answered it already
4. Thread-Index           Outlook's conversation, where the subject is the same, too
5. subject                only of an answer (`Re:`), from somebody who takes part, within 90 days

A subject alone glues nothing together: two people who write `Invoice` have nothing to do with each other. A thread of
MAX_MESSAGES is full: the next message begins another. Two routers that store messages of one thread at the same time agree by the
unique key of thread_keys: who comes second waits there and takes the other's thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from mailcore.kit.ids import uuid7
from mailcore.mime import subjects
from mailcore.mime.parse import Summary
from mailcore.store import threads
from mailcore.store.messages import Related
from mailcore.store.session import Connection
from mailcore.store.threads import Grown, Key, Known

MAX_MESSAGES = 1_000
WINDOW = timedelta(days=90)
MAX_PEOPLE = 50
"""Of one message."""
_TRIES = 3
_OUTLOOK_OCTETS = 22
"""The header block of a Thread-Index ([MS-OXOMSG] 2.2.1.3): what follows is of the single answers."""


class Message(Protocol):
    """What a new message is here, routed or mirrored: a dataclass that also has `thread_id` and `thread_by`."""

    @property
    def id(self) -> UUID: ...
    @property
    def org_id(self) -> UUID: ...
    @property
    def mailbox_id(self) -> UUID: ...
    @property
    def received_at(self) -> datetime: ...
    @property
    def related(self) -> Related: ...


M = TypeVar("M", bound=Message)


def related(found: Summary) -> Related:
    """What a summary says of the thread it belongs to."""
    about = subjects.base(found.subject)
    people = [one.address.lower() for one in (*found.from_, *found.to, *found.cc)]
    index = _outlook(found.thread_index)
    return Related(
        message_id=_digest("id", found.message_id.strip("<> ")) if found.message_id else None,
        in_reply_to=tuple(_digest("id", one.strip("<>")) for one in found.in_reply_to[:5]),
        references=tuple(_digest("id", one.strip("<>")) for one in reversed(found.references)),
        provider=_digest("outlook", index) if index else None,
        subject=_digest("subject", about.text.casefold()) if about.text else None,
        base_subject=about.text,
        is_reply=about.is_reply,
        sender=found.from_[0].address.lower() if found.from_ else None,
        people=tuple(dict.fromkeys(people))[:MAX_PEOPLE],
    )


async def assign(db: Connection, new: Sequence[M]) -> list[M]:
    """The same messages with `thread_id` and `thread_by`; their threads are stored, or have grown. Role worker."""
    if not new:
        return []
    keys = {(one.mailbox_id, key) for one in new for _, key in _keys(one.related)}
    orgs = {one.mailbox_id: one.org_id for one in new}
    for _ in range(_TRIES):
        sorting = _Sorting(await threads.known(db, keys))
        placed = [sorting.place(one) for one in sorted(new, key=lambda one: (one.received_at, one.id))]
        leads = await threads.lead(db, sorting.leads, orgs, sorting.instead_of) if sorting.leads else {}
        if all(leads[key] == wanted for key, wanted in sorting.leads.items() if key not in sorting.subjects):
            break  # else another was first with a key: now its thread is known
    await threads.grow(db, [thread.as_grown() for thread in sorting.grown()])
    return placed


@dataclass(slots=True)
class _Thread:
    """As it is while a batch is sorted."""

    id: UUID
    org_id: UUID
    mailbox_id: UUID
    subject: str
    participants: set[str]
    messages: int
    last_at: datetime
    added: list[Message] = field(default_factory=list)

    def add(self, message: Message) -> None:
        self.added.append(message)
        self.messages += 1
        self.participants.update(message.related.people)
        self.last_at = max(self.last_at, message.received_at)

    def as_grown(self) -> Grown:
        return Grown(
            self.id,
            self.org_id,
            self.mailbox_id,
            self.subject,
            list(dict.fromkeys(person for one in self.added for person in one.related.people)),
            len(self.added),
            min(one.received_at for one in self.added),
            self.last_at,
        )


class _Sorting:
    """One try: what is known, and what the batch adds to it."""

    def __init__(self, known: Mapping[Key, Known]) -> None:
        self._known = known
        self._threads: dict[UUID, _Thread] = {}
        self._by_key: dict[Key, _Thread] = {}
        self.leads: dict[Key, UUID] = {}
        """Keys to be made to lead to a thread …"""
        self.instead_of: set[UUID] = set()
        """… and from which threads they may be taken."""
        self.subjects: set[Key] = set()

    def grown(self) -> Iterator[_Thread]:
        return (thread for thread in self._threads.values() if thread.added)

    def place(self, message: M) -> M:
        thread, by = self._find(message)
        if thread is None:
            thread = _Thread(
                uuid7(),
                message.org_id,
                message.mailbox_id,
                message.related.base_subject,
                set(),
                0,
                message.received_at,
            )
            self._threads[thread.id] = thread
        for kind, key in _keys(message.related):
            self._lead((message.mailbox_id, key), thread, is_subject=kind == "subject")
        thread.add(message)
        return replace(message, thread_id=thread.id, thread_by=by)  # type: ignore[type-var]

    def _find(self, message: Message) -> tuple[_Thread | None, str]:
        about = message.related
        for kind, key in _keys(about):
            thread = self._leads_to((message.mailbox_id, key), message)
            if thread is None or thread.messages >= MAX_MESSAGES:
                continue
            if kind == "provider" and thread.subject.casefold() != about.base_subject.casefold():
                continue
            if kind == "subject" and not (
                about.is_reply
                and about.sender in thread.participants
                and abs(message.received_at - thread.last_at) <= WINDOW
            ):
                continue
            return thread, kind
        return None, "new"

    def _leads_to(self, key: Key, message: Message) -> _Thread | None:
        if key in self._by_key:
            return self._by_key[key]
        known = self._known.get(key)
        if known is None or known.last_at is None:
            return None
        if known.id not in self._threads:
            self._threads[known.id] = _Thread(
                known.id,
                message.org_id,
                message.mailbox_id,
                known.subject or "",
                set(known.participants),
                known.messages,
                known.last_at,
            )
        return self._threads[known.id]

    def _lead(self, key: Key, thread: _Thread, *, is_subject: bool) -> None:
        """A subject leads to the newest thread that has it; whatever else to where it leads, until that is gone or full."""
        before = self._by_key.get(key)
        known = self._known.get(key)
        if before is None and known is not None:
            before = self._threads.get(known.id)
        if before is thread or (before is not None and before.messages < MAX_MESSAGES and not is_subject):
            return
        if known is not None:
            if known.id == thread.id:
                return
            if known.last_at is not None and known.messages < MAX_MESSAGES and not is_subject:
                return  # it names another thread, too; that one keeps it
            self.instead_of.add(known.id)
        if is_subject:
            self.subjects.add(key)
        self._by_key[key] = thread
        self.leads[key] = thread.id


def _keys(about: Related) -> Iterator[tuple[str, UUID]]:
    """In the order in which they decide, with the name of each kind."""
    for key in about.in_reply_to:
        yield "in_reply_to", key
    for key in about.references:
        yield "references", key
    if about.message_id:
        yield "message_id", about.message_id
    if about.provider:
        yield "provider", about.provider
    if about.subject:
        yield "subject", about.subject


def _outlook(index: str | None) -> str | None:
    if not index or len(index) > 4_000:
        return None
    try:
        octets = base64.b64decode(index, validate=False)
    except (ValueError, binascii.Error):
        return None
    return octets[:_OUTLOOK_OCTETS].hex() if len(octets) >= _OUTLOOK_OCTETS else None


def _digest(kind: str, text: str) -> UUID:
    return UUID(bytes=hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "replace")).digest()[:16])
