"""A domain that another organization has verified, taken over by whoever controls its DNS (resend.md §6).

1. `start` makes a claim with a TXT record to publish, and beside it the claimant's own row of the domain, not verified, with
   keys of its own under selectors of its own: publishing them disturbs nobody
2. `ask` wants a look; `settle` looks, again and again until the claim expires after seven days
3. proven, the claim still waits while the owner has only just verified the domain, has sent from it within a day, or has mail
   that waits. Whoever controls the DNS has another way then: without its records the owner's domain fails after 72 hours
4. the transfer is one transaction of the worker role: the owner's domain goes (`domain.deleted`), the claimant's own is to be
   verified (`domain.updated`), other claims of the name are superseded

Neither learns who the other is.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dns.required import Published
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.verdict import OWNED
from mailcore.flow.domains import Domains, check_labels, raise_event, registered
from mailcore.kit.errors import Invalid, NotFound
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.kit.log import logger
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import CLAIM
from mailcore.store import claims, domains
from mailcore.store.claims import NewClaim
from mailcore.store.domains import NewDomain
from mailcore.store.session import Connection, Store

log = logger(__name__)

LIFETIME = timedelta(days=7)
GRACE = timedelta(hours=24)
"""A domain that was verified so recently is not taken away again."""
QUIET = timedelta(hours=24)
"""So long must its owner have sent nothing from it."""
PREFIX = "resend-domain-verification="
"""As on the live service: clients show it, and people know it."""


class Claims:
    """The door."""

    def __init__(self, store: Store, ringer: Ringer, door: Domains) -> None:
        self._store = store
        self._ringer = ringer
        self._domains = door

    async def start(self, wanted: NewDomain) -> tuple[asyncpg.Record, bool]:
        """The claim, and whether it is new: an identical one that has not ended is given again. Raises Refused, Invalid."""
        check_labels(wanted.custom_return_path, wanted.tracking_subdomain)
        asked = _asked(wanted)
        async with self._store.tenant(wanted.org_id) as db:
            before = await self._before(db, wanted)
            if before.same(asked):
                return before.claim, False
        keys = [] if before.domain is not None else await self._domains.keys(f"-{wanted.id.hex[-8:]}")
        async with self._store.tenant(wanted.org_id) as db:
            before = await self._before(db, wanted)
            if before.same(asked):
                return before.claim, False
            if before.claim is not None:
                await claims.supersede(db, before.claim["id"])
            queued = 0
            if before.domain is not None:
                domain_id = before.domain["id"]
                changed = {key: value for key, value in asked.items() if before.domain[key] != value}
                if before.domain["tracking_subdomain"] is not None:
                    changed.pop("tracking_subdomain", None)  # once set it stays
                queued = await self._changed(db, domain_id, changed)
            elif await domains.insert(db, wanted, keys):
                domain_id = wanted.id
                made = await domains.find(db, domain_id)
                assert made is not None
                queued = await raise_event(db, "domain.created", made, self._domains.published)
            else:
                raise registered(wanted.name)
            now = datetime.now(UTC)
            token = secrets.token_hex(16)
            await claims.insert(
                db,
                NewClaim(
                    *(uuid7(), wanted.org_id, domain_id, wanted.name, wanted.region, asked, token),
                    *(now, now + LIFETIME),
                ),
            )
            claim = await claims.latest(db, domain_id)
            assert claim is not None
        self._domains.ring(queued)
        return claim, True

    async def _before(self, db: Connection, wanted: NewDomain) -> _Before:
        count = await domains.count_locked(db, wanted.org_id)
        domain = await domains.named(db, wanted.name)
        if domain is not None and domain["status"] in OWNED:
            raise registered(wanted.name)
        claim = await claims.open_of(db, wanted.name)
        if claim is None and not await domains.taken(db, wanted.name, wanted.org_id):
            raise Invalid(
                f"No other organization has verified the `{wanted.name}` domain: there is nothing to claim. Create it with "
                "`POST /domains`."
            )
        if domain is None:
            self._domains.check_room(count)
        return _Before(domain, claim)

    async def _changed(self, db: Connection, domain_id: UUID, changed: dict[str, Any]) -> int:
        if not changed:
            return 0
        await domains.update(db, domain_id, changed)
        after = await domains.find(db, domain_id)
        assert after is not None
        return await raise_event(db, "domain.updated", after, self._domains.published)

    async def latest(self, org_id: UUID, domain_id: UUID) -> asyncpg.Record:
        """Raises NotFound."""
        async with self._store.tenant(org_id) as db:
            return await self._found(db, domain_id)

    async def ask(self, org_id: UUID, domain_id: UUID) -> asyncpg.Record:
        """A look at its TXT record; of a claim that has ended nothing more comes. Raises NotFound."""
        async with self._store.tenant(org_id) as db:
            claim = await self._found(db, domain_id)
            await claims.ask(db, claim["id"])
        await self._ringer.enqueue(CLAIM, str(claim["id"]))  # when Redis is away, the sweep of due claims comes to it
        return claim

    @staticmethod
    async def _found(db: Connection, domain_id: UUID) -> asyncpg.Record:
        if await domains.find(db, domain_id) is None:
            raise NotFound("Domain not found")
        claim = await claims.latest(db, domain_id)
        if claim is None:
            raise NotFound("Domain claim not found")
        return claim


@dataclass(frozen=True, slots=True)
class _Before:
    domain: asyncpg.Record | None
    claim: asyncpg.Record | None

    def same(self, asked: Mapping[str, Any]) -> bool:
        return self.claim is not None and self.claim["asked"] == asked


def _asked(wanted: NewDomain) -> dict[str, Any]:
    return {
        "region": wanted.region,
        "custom_return_path": wanted.custom_return_path,
        "open_tracking": wanted.open_tracking,
        "click_tracking": wanted.click_tracking,
        "tracking_subdomain": wanted.tracking_subdomain,
    }


def record(claim: Mapping[str, Any]) -> str:
    return f"{PREFIX}{claim['token']}"


# ---- the worker's side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """What to ring after the commit."""

    webhooks: int = 0
    sites: tuple[int, ...] = ()
    verify: UUID | None = None


async def claim_due(store: Store, limit: int = 100) -> list[UUID]:
    async with store.worker() as db:
        return await claims.claim_due(db, limit)


async def claim_one(store: Store, id_: UUID) -> bool:
    """Whether this one is due; then it is the caller's to look at. So a hundred requests make one look."""
    async with store.worker() as db:
        return await claims.claim_one(db, id_)


async def settle(store: Store, resolver: Resolver, claim_id: UUID, published: Published, *, now: datetime) -> Settled:
    """Moves a claim on as far as it can go. One that has ended is no error."""
    async with store.worker() as db:
        claim = await claims.find(db, claim_id)
    if claim is None:
        return Settled()
    asked = claim["asked_at"] is not None and claim["expires_at"] > now
    proven = await _proven(claim, resolver) if asked else False
    async with store.worker() as db:
        # its own domain first, then the owner's, then the claim: as `Domains.remove` does
        own = None if claim["domain_id"] is None else await domains.find_locked(db, claim["domain_id"])
        owner = await domains.owner_locked(db, claim["name"], claim["org_id"])
        held = await claims.find_locked(db, claim_id)
        if held is None or own is None:
            return Settled()
        if held["expires_at"] <= now:
            await claims.write(db, claim_id, "expired")
            return Settled()
        if not proven:
            # what the DNS would not tell just now stays as it was
            status, reason = (held["status"], held["blocked_reason"]) if proven is None else ("pending", None)
            await claims.write(db, claim_id, status, blocked=reason, due_at=_next(held, now))
            return Settled()
        reason = None if owner is None else await _blocked(db, owner, now)
        if reason is not None:
            await claims.write(db, claim_id, "blocked", blocked=reason, due_at=_next(held, now))
            return Settled()
        return await _transfer(db, held, own, owner, published)


async def _proven(claim: Mapping[str, Any], resolver: Resolver) -> bool | None:
    try:
        return record(claim) in [text.strip() for text in (await resolver.txt(claim["name"])).values]
    except NoSuchDomain:
        return False
    except TemporaryDNSError:
        return None


def _next(claim: Mapping[str, Any], now: datetime) -> datetime:
    """Every minute at first, at last every hour; at the latest when it expires."""
    expires: datetime = claim["expires_at"]
    if claim["asked_at"] is None:
        return expires
    seconds = min(3600.0, max(60.0, (now - claim["asked_at"]).total_seconds() / 10))
    return min(now + timedelta(seconds=seconds), expires)


async def _blocked(db: Connection, owner: Mapping[str, Any], now: datetime) -> str | None:
    if now - (owner["owned_since"] or owner["created_at"]) < GRACE:
        return "grace_period"
    if await claims.has_waiting(db, owner["org_id"], owner["id"]):
        return "pending_scheduled_emails"
    if await claims.sent_since(db, owner["org_id"], owner["id"], lower_bound(now - QUIET)):
        return "recent_owner_activity"
    return None


async def _transfer(
    db: Connection,
    claim: Mapping[str, Any],
    own: asyncpg.Record,
    owner: asyncpg.Record | None,
    published: Published,
) -> Settled:
    sites: list[int] = []
    webhooks = 0
    if owner is not None:
        sites = await domains.delete(db, owner["id"])
        webhooks += await raise_event(db, "domain.deleted", owner, published)
        log.warning("a domain has changed hands", domain=claim["name"])
    await domains.begin_verification(db, own["id"])
    after = await domains.find(db, own["id"])
    assert after is not None
    webhooks += await raise_event(db, "domain.updated", after, published)
    await claims.write(db, claim["id"], "completed")
    await claims.supersede_others(db, claim["name"], claim["id"])
    return Settled(webhooks, tuple(sites), own["id"])
