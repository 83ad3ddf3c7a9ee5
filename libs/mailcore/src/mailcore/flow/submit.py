"""The door of sending: everything that leaves goes through here, and is on disk when `submit` returns.

    submits = Submits(store, ringer, blobs)
    done = await submits.submit(org_id, [email], door="api")

1. the sender's domain is verified and this organization's; its quota is not used up (flow.quota)
2. with an idempotency key: answered before? in progress?
3. each recipient's lane; large parts to the blob store
4. one transaction for all that is in flight (flow.group): key, quota, email, a delivery and a queue row a recipient, event;
   a recipient on the suppression list gets its event instead of a queue row
5. after the commit, the bells of the sites that now have due rows

A door inside another door's transaction calls `prepare` before it begins, `submit_in` within, `ring` after the commit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias
from uuid import UUID

from mailcore.blob.base import INLINE_BYTES, BlobStore
from mailcore.events import suppressed
from mailcore.flow.group import GroupCommit
from mailcore.flow.new_email import NewAttachment, NewEmail
from mailcore.flow.quota import GROUPS, Quotas
from mailcore.flow.row import distinct, is_long, row_of, unsent
from mailcore.flow.sandbox import Sandbox
from mailcore.flow.ways import RoutesOut
from mailcore.kit import failpoint
from mailcore.kit.errors import Conflict, MailError, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.metrics import SUBMITS
from mailcore.kit.remember import Remembered
from mailcore.queue.bell import NAMED, Ringer
from mailcore.queue.jobs import OUTBOUND, WEBHOOKS
from mailcore.smtp.address import Address
from mailcore.store import domains, emails, events, idempotency, lanes, owed
from mailcore.store.emails import Inserted, NewRow, Suppressed
from mailcore.store.events import NewEvent
from mailcore.store.idempotency import Busy, OnceKey, Stored, Wanted
from mailcore.store.lanes import LaneKey
from mailcore.store.session import Connection, Store

__all__ = ["Due", "NewAttachment", "NewEmail", "Once", "Submits", "Submitted"]

DOMAIN_SECONDS = 3.0
"""How long a verified domain is believed to be one: a removed domain stops sending in less than five seconds."""
COMPANY = 20
"""Emails that wait before another group leaves beside those under way. A statement costs this process more than a mail: few large
groups are cheaper than many small ones."""
COPIES = 50
"""Recipients that weigh as much in a group as an email."""
MAX_REMEMBERED = 100_000


class Once(NamedTuple):
    """An idempotency key. `response` makes the answer to store from the new ids, before they are committed."""

    endpoint: str
    key: str
    fingerprint: bytes
    response: Callable[[list[str]], bytes]


class Submitted(NamedTuple):
    names: list[str]
    """The ids of the emails as text; empty when `replayed`."""
    response: bytes | None = None
    """With an idempotency key: what to answer, now or stored then."""
    replayed: bool = False

    @property
    def ids(self) -> list[UUID]:
        return [UUID(name) for name in self.names]


@dataclass(frozen=True, slots=True)
class Due:
    """What to ring after the commit."""

    sites: list[int]
    webhooks: bool


class _Member(NamedTuple):
    ready: list[NewRow]
    once: Once | None
    wanted: Wanted | None
    """The idempotency key."""
    response: bytes | None
    weight: int
    copies: int
    """Recipients: what it counts against the quota."""


_Refused: TypeAlias = dict[int, Submitted | MailError]
"""Members that are not stored, by their place, and what they are answered: a replay, or why."""


class Submits:
    """One a process."""

    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        blobs: BlobStore,
        *,
        quotas: Quotas | None = None,
        sandbox: Sandbox | None = None,
        in_flight: int = GROUPS,
        members: int = 200,
    ) -> None:
        """Without `quotas` only organizations with limits of their own have any."""
        self.quotas = quotas or Quotas(store)
        self._sandbox = sandbox or Sandbox(store, "")
        self._store = store
        self._ringer = ringer
        self._blobs = blobs
        self._group: GroupCommit[_Member, Submitted] = GroupCommit(
            self._commit, in_flight=in_flight, company=COMPANY, members=members, weight=lambda member: member.weight
        )
        self._domains: Remembered[tuple[UUID, str], UUID] = Remembered(self._domain, seconds=DOMAIN_SECONDS)
        self._lanes: dict[LaneKey, int] = {}
        self._routes = RoutesOut(store)
        self._in_progress: set[OnceKey] = set()
        self._counted = functools.cache(SUBMITS.labels)

    async def submit(
        self,
        org_id: UUID,
        new: Sequence[NewEmail],
        *,
        door: str,
        only: Collection[UUID] | None = None,
        once: Once | None = None,
    ) -> Submitted:
        """Returns after the commit. All of `new` or none.

        `only` holds the sender to these domains. Raises Refused (domain not verified), Conflict (idempotency key in use or
        used for something else), Exceeded (quota), Unavailable.
        """
        failpoint.hit("f1")
        if once is None:
            done = await self._group.join(self._member(await self.prepare(org_id, new, only=only)))
        else:
            done = await self._submit_once(org_id, new, only, once)
        if not done.replayed:
            self._counted(door).inc(len(done.names))
            failpoint.hit("f3")
        return done

    async def sending_domain(
        self, org_id: UUID, name: str, *, only: Collection[UUID] | None = None, to: Collection[Address] = ()
    ) -> UUID:
        """The id of the organization's verified domain of exactly this name, or of the sandbox. Raises Refused: not verified,
        not among `only`, or the sandbox, and `to` are not all members."""
        id_ = self._domains.held((org_id, name)) or await self._domains.get((org_id, name))
        if id_ is None:
            id_ = await self._sandbox.sender(org_id, name, to)
        if id_ is None:
            raise Refused(f"The `{name}` domain is not verified. Please, add and verify your domain.")
        if only is not None and id_ not in only:
            raise Refused(f"This API key may not send from the `{name}` domain. Use a key for that domain.")
        return id_

    async def stored(self, org_id: UUID, once: Once) -> bytes | None:
        """The answer to the same request before, if there was one. Raises Conflict when it was another request."""
        key = (org_id, once.endpoint, once.key)
        async with self._store.door() as db:
            found = (await idempotency.find(db, [key])).get(key)
        return None if found is None else _same(found, once)

    async def prepare(
        self, org_id: UUID, new: Sequence[NewEmail], *, only: Collection[UUID] | None = None
    ) -> list[NewRow]:
        """Checks the domain, finds lanes, writes blobs. Holds no transaction of the caller's. Raises as `submit`."""
        to: dict[str, list[Address]] = {}
        for email in new:
            if email.domain_id is None:
                to.setdefault(email.domain, []).extend(email.recipients)
        by_name = {name: await self.sending_domain(org_id, name, only=only, to=all_) for name, all_ in to.items()}
        domain_ids = [email.domain_id or by_name[email.domain] for email in new]
        wanted = [distinct(email.recipients) for email in new]
        if to:
            await self.quotas.check(org_id, sum(map(len, wanted)))
        routes = self._routes.held(org_id) or await self._routes.of(org_id)
        by_route = [
            routes.route(domain_id, email.tags, requiretls=email.requiretls)
            if email.lane_route is None
            else email.lane_route
            for email, domain_id in zip(new, domain_ids, strict=True)
        ]
        found = await self._lanes_of(
            [
                [(org_id, address.domain, int(email.broadcast), route) for address in recipients]
                for email, recipients, route in zip(new, wanted, by_route, strict=True)
            ]
        )
        now = datetime.now(UTC)
        ready = []
        for email, domain_id, recipients, of_lanes in zip(new, domain_ids, wanted, found, strict=True):
            ready.append(await row_of(self._blobs, org_id, email, domain_id, recipients, of_lanes, now))
        failpoint.hit("f2")
        return ready

    async def submit_in(self, db: Connection, ready: Sequence[NewRow]) -> Due:
        """Within the caller's transaction (role door or worker). After its commit: `ring`."""
        return await self._due(db, await emails.insert(db, ready), ready)

    async def _due(self, db: Connection, done: Inserted, ready: Sequence[NewRow]) -> Due:
        queued = done.webhooks
        if done.suppressed:
            queued += await events.insert(db, [_suppressed(each) for each in done.suppressed])
            await owed.owe_unsent(db, unsent(ready, done.suppressed))
        return Due(done.sites, queued > 0)

    def ring(self, due: Due) -> None:
        # who sends to many leaves the names to who sends to few, who then does not wait for a look at all
        for site in due.sites if len(due.sites) <= NAMED else [""]:
            self._ringer.ring(OUTBOUND, site)
        if due.webhooks:
            self._ringer.ring(WEBHOOKS)

    async def drain(self) -> None:
        """Returns when everything taken so far is committed or failed."""
        await self._group.drain()

    async def _domain(self, key: tuple[UUID, str]) -> UUID | None:
        async with self._store.tenant(key[0]) as db:
            return await domains.sending_id(db, key[1])

    # ---- with an idempotency key --------------------------------------------------------------------------------

    async def _submit_once(
        self, org_id: UUID, new: Sequence[NewEmail], only: Collection[UUID] | None, once: Once
    ) -> Submitted:
        key: OnceKey = (org_id, once.endpoint, once.key)
        if key in self._in_progress:
            raise _busy()
        self._in_progress.add(key)
        try:
            # the group's transaction looks for the key; before it only where there is much to be done in vain
            if any(map(_is_large, new)) and (before := await self.stored(org_id, once)) is not None:
                return Submitted([], before, replayed=True)
            try:
                ready = await self.prepare(org_id, new, only=only)
            except MailError:
                # what was answered once is answered again, whatever has become of the domain and the quota
                before = await self.stored(org_id, once)
                if before is None:
                    raise
                return Submitted([], before, replayed=True)
            return await self._group.join(self._member(ready, once, key))
        finally:
            self._in_progress.discard(key)

    # ---- step 3: lanes and blobs --------------------------------------------------------------------------------

    async def _lanes_of(self, wanted: list[list[LaneKey]]) -> list[list[int]]:
        known = self._lanes
        try:
            return [[known[key] for key in each] for each in wanted]
        except KeyError:
            pass
        keys = {key for each in wanted for key in each}
        found = {key: self._lanes[key] for key in keys if key in self._lanes}
        missing = keys.difference(found)
        if missing:
            async with self._store.door() as db:
                made = await lanes.ensure(db, missing)
            if len(self._lanes) + len(made) > MAX_REMEMBERED:
                self._lanes.clear()
            self._lanes.update(made)  # only after the commit: a lane id must not outlive a rollback
            found.update(made)
        return [[found[key] for key in each] for each in wanted]

    # ---- step 4: the group's transaction ------------------------------------------------------------------------

    def _member(self, ready: list[NewRow], once: Once | None = None, key: OnceKey | None = None) -> _Member:
        size = sum([len(each.html or "") + len(each.text or "") + len(each.rest or "") for each in ready])
        response, wanted = None, None
        if once is not None and key is not None:
            response = once.response([each.id for each in ready])
            wanted = Wanted(key, once.fingerprint, response)
        copies = sum([len(each.recipients) for each in ready])
        weight = len(ready) + size // INLINE_BYTES + copies // COPIES
        return _Member(ready, once, wanted, response, weight, copies)

    async def _commit(self, members: Sequence[_Member]) -> list[Submitted | MailError]:
        near = self.quotas.near([(member.ready[0].org_id, member.copies) for member in members if member.ready])
        async with self._store.door() as db:
            answers, due = await (self._store_near(db, members, near) if near else self._store_all(db, members))
        failpoint.hit("f4")
        if due is not None:
            self.ring(due)
        return [
            answers.get(place) or Submitted([each.id for each in member.ready], member.response)
            for place, member in enumerate(members)
        ]

    async def _store_all(self, db: Connection, members: Sequence[_Member]) -> tuple[_Refused, Due | None]:
        """Far from every quota: all in one statement. Returns the answers of those that are not stored, by their place."""
        ready = [row for member in members for row in member.ready]
        wanted = [member.wanted for member in members if member.wanted is not None]
        if wanted:
            keyed = [place for place, member in enumerate(members) if member.wanted is not None]
            number = {place: n for n, place in enumerate(keyed, 1)}
            key_of = [number.get(place, 0) for place, member in enumerate(members) for _ in member.ready]
            done = await emails.insert_once(db, ready, wanted, key_of)
            refused = {keyed[n]: _answer(members[keyed[n]], claimed) for n, claimed in done.refused.items()}
        else:
            done, refused = await emails.insert(db, ready), {}
        self.quotas.took(
            [(m.ready[0].org_id, m.copies) for place, m in enumerate(members) if m.ready and place not in refused]
        )
        return refused, await self._due(db, done, ready) if len(refused) < len(members) else None

    async def _store_near(
        self, db: Connection, members: Sequence[_Member], near: Sequence[UUID]
    ) -> tuple[_Refused, Due | None]:
        """Near a quota: keys are asked for, then the quota, then both are taken by what is left. A refusal burns no key."""
        keyed = [(place, member.wanted) for place, member in enumerate(members) if member.wanted is not None]
        found = await idempotency.claim(db, [wanted.key for _, wanted in keyed])
        refused: _Refused = {
            place: _answer(members[place], claimed)
            for (place, _), claimed in zip(keyed, found, strict=True)
            if claimed is not None
        }
        # after the keys, so that a replay is answered whatever the quota
        open_ = [place for place, member in enumerate(members) if member.ready and place not in refused]
        asked = [(members[place].ready[0].org_id, members[place].copies) for place in open_]
        admitted = await self.quotas.admit(db, asked, near)
        refused |= {place: refusal for place, refusal in zip(open_, admitted, strict=True) if refusal is not None}
        await idempotency.insert(db, [wanted for place, wanted in keyed if place not in refused])
        ready = [row for place in open_ if place not in refused for row in members[place].ready]
        return refused, await self.submit_in(db, ready) if ready else None


def _is_large(email: NewEmail) -> bool:
    """It may need blobs."""
    return bool(email.attachments) or email.raw is not None or is_long(email.html) or is_long(email.text)


def _suppressed(row: Suppressed) -> NewEvent:
    detail = suppressed(row.origin)
    return NewEvent(uuid7(), row.org_id, "email.suppressed", row.email_id, datetime.now(UTC), [row.recipient], detail)


def _answer(member: _Member, claimed: Stored | Busy) -> Submitted | MailError:
    if member.once is None or isinstance(claimed, Busy):
        return _busy()
    try:
        return Submitted([], _same(claimed, member.once), replayed=True)
    except Conflict as error:
        return error


def _same(stored: Stored, once: Once) -> bytes:
    if stored.fingerprint != once.fingerprint:
        raise Conflict(
            "This idempotency key has been used with this HTTP method and endpoint within the last 24 hours, but the request "
            "body was modified and doesn't match the original request.",
            name="invalid_idempotent_request",
        )
    return stored.response


def _busy() -> Conflict:
    return Conflict(
        "There is another request in progress with the same idempotency key.", name="concurrent_idempotent_requests"
    )
