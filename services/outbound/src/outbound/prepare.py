"""Leased rows as mails: content fetched, composed and signed in chunks, each handed on as soon as it is ready.

Small ones together. Large ones when the process has memory for them (`memory`), before their content is fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

from mailcore.flow import waiting
from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import contents as stored
from mailcore.store.contents import Content
from mailcore.store.deliveries import Key, Leased
from outbound.composer import CHUNK, Work, chunks, fetch
from outbound.memory import LIGHT_BYTES, Holding, Share, weight
from outbound.office import Office
from outbound.placement import Placed
from outbound.routes import Way
from outbound.signer import Identity

log = logger(__name__)


class Run(Protocol):
    """What the mails are prepared for."""

    @property
    def holding(self) -> Holding:
        """Memory of the rows under way."""

    @property
    def way(self) -> Way: ...

    def wait_for_memory(self, rows: int) -> None:
        """So many more rows whose mails do, or, below zero, fewer: others pass them."""

    def class_of(self, row: Leased) -> int: ...

    def placed(self, placed: Placed) -> None:
        """From where each is sent; what waits is leased no more."""

    def ending(self) -> bool:
        """Nothing more is handed on."""

    def hand(self, rows: Sequence[Leased], content: Content, identity: Identity, octets: bytes) -> None:
        """To the transport, or not, when the run is ending."""

    def was_handed(self, key: Key) -> bool: ...

    def settle_all(self, rows: Iterable[Leased], outcome: Outcome) -> None: ...


async def prepare(office: Office, run: Run, rows: Sequence[Leased]) -> None:
    """To the end of all of them: handed on, settled, or neither, and those go back."""
    by_email: dict[UUID, list[Leased]] = {}
    for row in rows:
        by_email.setdefault(row.email_id, []).append(row)
    await _Preparation(office, run, by_email).go(len(rows))


class _Preparation:
    def __init__(self, office: Office, run: Run, by_email: dict[UUID, list[Leased]]) -> None:
        self._office = office
        self._run = run
        self._by_email = by_email

    async def go(self, rows: int) -> None:
        office, by_email = self._office, self._by_email
        share = office.memory.light
        asked = len(by_email) * weight(LIGHT_BYTES)
        taken = asked if await self._take(share, asked) else 0
        try:
            if not taken:
                return
            found = await office.contents.ask(by_email)
            light = [each for each in found.values() if not isinstance(each, int)]
            heavy = {id_: size for id_, size in found.items() if isinstance(size, int)}
            taken -= self._hold(share, {content.id: size for content, size in light})
            share.give(taken)
            taken = 0
            self._settle_gone(by_email, {*heavy, *(content.id for content, _ in light)})
            ready = {content.id: content for content, _ in light}
            work = []
            for theirs in self._by_owner(ready):
                work += [
                    self._compose_chunk([ready[id_] for id_ in theirs[i : i + CHUNK]])
                    for i in range(0, len(theirs), CHUNK)
                ]
            for theirs in self._by_owner(heavy):
                work += [self._compose_heavy(chunk) for chunk in chunks({id_: heavy[id_] for id_ in theirs})]
            del found, light, ready  # large ones may wait for long: the small ones' content must not stay as long
            # to the end of all of them: what goes back after this must not be handed over after it
            ended = await asyncio.gather(*work, return_exceptions=True)
            if error := next((each for each in ended if isinstance(each, BaseException)), None):
                raise error
        except Unavailable as error:
            log.warning("leased rows go back: their content cannot be read", rows=rows, error=error.public)
        finally:
            share.give(taken)

    def _whose(self, id_: UUID) -> Hashable:
        """Who takes turns with others: an organization's transactional mail, and its broadcasts."""
        row = self._by_email[id_][0]
        return row.org_id, self._run.class_of(row)

    def _by_owner(self, ids: Iterable[UUID]) -> Collection[list[UUID]]:
        theirs: dict[Hashable, list[UUID]] = {}
        for id_ in ids:
            theirs.setdefault(self._whose(id_), []).append(id_)
        return theirs.values()

    def _hold(self, share: Share, sizes: dict[UUID, int]) -> int:
        for id_, size in sizes.items():
            self._run.holding.add(share, weight(size), [row.key for row in self._by_email[id_]])
        return sum(map(weight, sizes.values()))

    async def _take(self, share: Share, octets: int) -> bool:
        return not self._run.ending() and await share.take(octets, self._run)

    async def _compose_heavy(self, sizes: dict[UUID, int]) -> None:
        """Waits for memory first, holding none of it."""
        share = self._office.memory.heavy
        rows = sum(len(self._by_email[id_]) for id_ in sizes)
        self._run.wait_for_memory(rows)
        try:
            if not await self._take(share, sum(map(weight, sizes.values()))):
                return
        finally:
            self._run.wait_for_memory(-rows)
        self._hold(share, sizes)
        try:
            async with self._office.store.worker(by_index=True) as db:
                contents = await stored.contents(db, sizes)
            self._settle_gone({id_: self._by_email[id_] for id_ in sizes}, contents.keys())
            await self._compose_chunk(list(contents.values()))
        finally:
            # others wait for it, before these rows go back
            for id_ in sizes:
                self._free(self._by_email[id_])

    def _free(self, rows: Iterable[Leased]) -> None:
        """The memory of those that the transport was not given."""
        for row in rows:
            if not self._run.was_handed(row.key):
                self._run.holding.done(row.key)

    def _settle_gone(self, by_email: dict[UUID, list[Leased]], there: Collection[UUID]) -> None:
        for id_, rows in by_email.items():
            if id_ not in there:
                self._run.settle_all(rows, own(Result.FAILED, "the mail's content is gone", "5.3.0", "content-gone"))

    async def _compose_chunk(self, chunk: Sequence[Content]) -> None:
        try:
            identities = await self._office.signer.identities({content.domain_id for content in chunk})
            ready = await self._free_to_leave(chunk, identities)
            if ready and not self._office.sources.idle:
                ready = await self._placed(ready)
            await self._compose_signed(ready, identities)
        finally:
            for content in chunk:
                self._free(self._by_email[content.id])

    async def _free_to_leave(self, chunk: Sequence[Content], identities: dict[UUID, Identity]) -> Sequence[Content]:
        """Those whose domain is not paused; the others wait until it is not."""
        paused = {id_ for id_, identity in identities.items() if identity.paused}
        stay = [content for content in chunk if content.domain_id in paused and not content.relayed] if paused else []
        if not stay:
            return chunk
        rows = [(row, content.domain_id) for content in stay for row in self._by_email[content.id]]
        await waiting.until_resumed(self._office.store, rows)
        self._run.placed(Placed({}, [row for row, _ in rows]))
        for content in stay:
            self._by_email[content.id] = []
        return [content for content in chunk if self._by_email[content.id]]

    async def _placed(self, chunk: Sequence[Content]) -> list[Content]:
        """Those that have a source with room today."""
        run, by_email = self._run, self._by_email
        work = [(content, run.class_of(by_email[content.id][0]), by_email[content.id]) for content in chunk]
        placed = await self._office.sources.place(run.way, work)
        run.placed(placed)
        for content, _, rows in work:
            by_email[content.id] = [row for row in rows if row.key in placed.placements]
        return [content for content in chunk if by_email[content.id]]

    async def _compose_signed(self, chunk: Sequence[Content], identities: dict[UUID, Identity]) -> None:
        office, run = self._office, self._run
        work: list[Work] = []
        for content in chunk:
            identity = identities.get(content.domain_id)
            if identity is None:
                run.settle_all(self._by_email[content.id], _DOMAIN_GONE)
                continue
            fetched = await fetch(content, identity.keys, office.blobs, office.tracker)
            if isinstance(fetched, Work):
                work.append(fetched)
            else:
                run.settle_all(self._by_email[content.id], fetched)
        composed = await office.signers.compose(work, self._whose(work[0].content.id)) if work else []
        for each, octets in zip(work, composed, strict=True):
            rows = self._by_email[each.content.id]
            identity = identities.get(each.content.domain_id)
            if isinstance(octets, Outcome) or identity is None:
                run.settle_all(rows, octets if isinstance(octets, Outcome) else _NO_KEY)
            else:
                run.hand(rows, each.content, identity, octets)


def own(result: Result, text: str, enhanced: str, rule: str) -> Outcome:
    """In our words, where no peer was asked."""
    return Outcome(result, Reply(451 if result is Result.DEFERRED else 554, text, enhanced), rule=rule)


_DOMAIN_GONE = own(Result.FAILED, "the sending domain has been removed", "5.7.1", "domain-deleted")
_NO_KEY = own(Result.DEFERRED, "the sending domain has no usable DKIM key", "4.7.0", "no-signing-key")
