"""DKIM keys of a domain as they come and go: rotation with overlap, keys of one's own.

1. a new key is made, or brought along: `pending`, and its record is shown
2. its record is seen: `published`; seen again after PROPAGATION, so that every name server of the domain has it: `active`. It
   signs from now on, and the key before it no longer does
3. that one is `retiring`: its record stays published for OVERLAP, because mail that it has signed is still on its way
4. then it is `retired`: its private half is forgotten, and its owner is told that the record may be removed

Nothing here disturbs mail: until the new record is seen the old key signs. Of a domain that may not send yet nothing has been
signed, and a new key takes the old one's place at once. Every change of state raises `domain.updated` in its own transaction.

`Dkim` is the door of who asks; `advance` is the worker's, who comes by `domains.dkim_due_at`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dns.names import MAX_DOMAIN, MAX_LABEL
from mailcore.dns.required import Published, dkim_key, dkim_record
from mailcore.dns.resolver import Resolver
from mailcore.dns.verdict import OWNED, look_up
from mailcore.flow.domains import Domains, new_keys, raise_event
from mailcore.kit.errors import Conflict, Invalid, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, import_pem, normalize_selector
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import WEBHOOKS
from mailcore.store import dkim_keys, domains
from mailcore.store.dkim_keys import ACTIVE, NEXT, PENDING, PUBLISHED, RETIRED, RETIRING
from mailcore.store.domains import NewKey
from mailcore.store.session import Connection, Store

ALGORITHMS = (RSA_SHA256, ED25519_SHA256)
PROPAGATION = timedelta(minutes=10)
"""How long a record must have been there before its key signs: a zone's secondary servers have it by then."""
OVERLAP = timedelta(days=8)
"""A signature is good for seven days (mailauth.dkim.sign, x=), and a day is for what has been held up."""
MEMORY = timedelta(days=90)
"""How long a retired key is remembered: until then its selector is not used again. One that never signed: a day."""
MOST = 50
"""Keys of a domain, retired ones counted."""
DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0

Key = Mapping[str, Any]
"""A row of `dkim_keys`, as store.dkim_keys gives it."""


def selectors(algorithms: Sequence[str], now: datetime) -> list[tuple[str, str]]:
    """`(algorithm, selector)` of new keys: told apart by day, and never the same as anybody's for the same name."""
    stem = f"postroom-{now:%Y%m%d}-{secrets.token_hex(2)}"
    return [(each, stem + ("-ed25519" if each == ED25519_SHA256 else "")) for each in algorithms]


class Dkim:
    """The door."""

    def __init__(self, store: Store, ringer: Ringer, keyring: Keyring, door: Domains) -> None:
        self._store = store
        self._ringer = ringer
        self._keyring = keyring
        self._domains = door

    async def rotate(self, org_id: UUID, domain_id: UUID, algorithms: Sequence[str] = ALGORITHMS) -> list[UUID]:
        """The keys that are next, new ones or those that wait already. Raises NotFound, Refused."""
        keys = await self._keys(org_id, domain_id)
        waiting = {key["algorithm"]: key["id"] for key in keys if key["state"] in NEXT}
        wanted = [each for each in algorithms if each not in waiting]
        if wanted:
            made = await self._domains.make_keys(selectors(wanted, datetime.now(UTC)))
            await self._add(org_id, domain_id, made, "made")
            waiting |= {key.algorithm: key.id for key in made}
        return [waiting[each] for each in algorithms]

    async def create(self, org_id: UUID, domain_id: UUID, algorithm: str, selector: str | None = None) -> UUID:
        """A new key of one algorithm under a selector of the caller's choice. Raises NotFound, Invalid, Conflict, Refused."""
        keys = await self._keys(org_id, domain_id)
        _check_free(keys, algorithm, selector)
        wanted = selectors([algorithm], datetime.now(UTC)) if selector is None else [(algorithm, selector)]
        made = await self._domains.make_keys(wanted)
        await self._add(org_id, domain_id, made, "made")
        return made[0].id

    async def bring(self, org_id: UUID, domain_id: UUID, selector: str, pem: str) -> UUID:
        """A key of the caller's own. Raises NotFound, Invalid, Conflict, Refused."""
        algorithm, private, public_txt = await asyncio.to_thread(import_pem, pem)
        _check_free(await self._keys(org_id, domain_id), algorithm, selector)
        key = NewKey(uuid7(), selector, algorithm, self._keyring.seal(private, "dkim"), public_txt)
        await self._add(org_id, domain_id, [key], "imported")
        return key.id

    async def retire(self, org_id: UUID, domain_id: UUID, key_id: UUID, *, at_once: bool = False) -> None:
        """`at_once`: without an overlap; what it has signed and is under way fails from then on, once the record is gone.

        Raises NotFound; Invalid for the key without which the domain's mail would have no signature that all verify.
        """
        now = datetime.now(UTC)
        async with self._store.tenant(org_id) as db:
            row = await domains.find_locked(db, domain_id)
            keys = [] if row is None else await dkim_keys.of_domain(db, domain_id)
            key = next((each for each in keys if each["id"] == key_id), None)
            if row is None or key is None:
                raise NotFound("DKIM key not found")
            if key["state"] == RETIRED or (key["state"] == RETIRING and not at_once):
                return
            if key["state"] == ACTIVE:
                if key["algorithm"] == RSA_SHA256:
                    raise Invalid(
                        "This key signs the domain's mail, and without it most receivers could not verify that. Rotate first: "
                        "when the new key signs, this one retires by itself, or can be retired at once."
                    )
                await dkim_keys.note_change(db, domain_id, gone=[dkim_key(key["selector"])], seen=[])
            signed = key["state"] == ACTIVE and not at_once
            await dkim_keys.move(db, key_id, RETIRING if signed else RETIRED, now, now + OVERLAP if signed else None)
            queued = await self._changed(db, domain_id)
        self._ring(queued)

    async def schedule(self, org_id: UUID, domain_id: UUID, days: int | None) -> None:
        """Rotation every so many days, None: when somebody asks. Raises NotFound."""
        async with self._store.tenant(org_id) as db:
            if await domains.find_locked(db, domain_id) is None:
                raise NotFound("Domain not found")
            await dkim_keys.schedule(db, domain_id, days)

    async def _keys(self, org_id: UUID, domain_id: UUID) -> list[asyncpg.Record]:
        """Asked before a key is made: that costs."""
        async with self._store.tenant(org_id) as db:
            if await dkim_keys.domain(db, domain_id) is None:
                raise NotFound("Domain not found")
            keys = await dkim_keys.of_domain(db, domain_id)
        if len(keys) >= MOST:
            raise Refused(
                f"This domain has {MOST} DKIM keys, retired ones counted, and may have no more. A retired key is forgotten "
                f"{MEMORY.days} days after it was retired."
            )
        return keys

    async def _add(self, org_id: UUID, domain_id: UUID, made: Sequence[NewKey], origin: str) -> None:
        now = datetime.now(UTC)
        try:
            async with self._store.tenant(org_id) as db:
                row = await domains.find_locked(db, domain_id)
                if row is None:
                    raise NotFound("Domain not found")
                for key in made:
                    check_name(key.selector, row["name"])
                await dkim_keys.insert(db, org_id, domain_id, made, origin=origin)
                if row["status"] not in OWNED:
                    for key in made:
                        await _use(db, await dkim_keys.of_domain(db, domain_id), key.id, now)
                queued = await self._changed(db, domain_id)
        except asyncpg.UniqueViolationError as error:  # somebody was quicker
            raise Conflict("This domain has just got another DKIM key. List its keys, and try again.") from error
        self._ring(queued)

    async def _changed(self, db: Connection, domain_id: UUID) -> int:
        row = await dkim_keys.domain(db, domain_id)
        assert row is not None
        await dkim_keys.write_due(
            db, domain_id, due_in(row, await dkim_keys.of_domain(db, domain_id), datetime.now(UTC))
        )
        after = await domains.find(db, domain_id)
        assert after is not None
        return await raise_event(db, "domain.updated", after, self._domains.published)

    def _ring(self, queued: int) -> None:
        if queued:
            self._ringer.ring(WEBHOOKS)


def selector_name(text: str) -> str:
    """What a caller wrote as a selector, in normal form (RFC 6376 §3.1). Raises Invalid."""
    try:
        return normalize_selector(text.strip(" "))
    except Invalid as error:
        raise Invalid(f"Invalid `selector` field. {error.public}", field="selector") from None


def check_name(selector: str, domain: str) -> None:
    """Raises Invalid: the record could have no name."""
    if len(f"{selector}._domainkey.{domain}") > MAX_DOMAIN:
        longest = MAX_DOMAIN - len(f"._domainkey.{domain}")
        raise Invalid(
            f"Invalid `selector` field. For {domain} it may have at most {min(longest, MAX_LABEL)} characters."
        )


def _check_free(keys: Sequence[Key], algorithm: str, selector: str | None) -> None:
    if any(key["selector"] == selector for key in keys):
        raise Conflict(f"The selector `{selector}` is one of this domain's keys already, or was: choose another one.")
    waiting = next((key for key in keys if key["algorithm"] == algorithm and key["state"] in NEXT), None)
    if waiting is not None:
        raise Conflict(
            f"The key `{waiting['selector']}` of the same algorithm waits to be used. Publish its record, or retire it first."
        )


async def _use(db: Connection, keys: Sequence[Key], key_id: UUID, now: datetime) -> None:
    """From now on this one signs, and the one before it no longer does."""
    key = next(each for each in keys if each["id"] == key_id)
    before = next((each for each in keys if each["state"] == ACTIVE and each["algorithm"] == key["algorithm"]), None)
    row = await dkim_keys.domain(db, key["domain_id"])
    assert row is not None
    if before is not None:
        never_signed = row["verified_at"] is None and row["status"] not in OWNED
        state, until = (RETIRED, None) if never_signed else (RETIRING, now + OVERLAP)
        await dkim_keys.move(db, before["id"], state, now, until)
    await dkim_keys.move(db, key_id, ACTIVE, now)
    gone = [] if before is None else [dkim_key(before["selector"])]
    await dkim_keys.note_change(
        db, row["id"], gone=gone, seen=[dkim_key(key["selector"])] if row["status"] in OWNED else []
    )


# ---- the worker's side -----------------------------------------------------------------------------------------------


async def claim_due(store: Store, limit: int = 100) -> list[UUID]:
    """Domains about whose keys something is due."""
    async with store.worker() as db:
        return await dkim_keys.claim_due(db, limit)


async def claim_one(store: Store, domain_id: UUID) -> bool:
    """Whether something is due about this one; then it is the caller's to do."""
    async with store.worker() as db:
        return await dkim_keys.claim_one(db, domain_id)


async def advance(
    store: Store, resolver: Resolver, keyring: Keyring, domain_id: UUID, published: Published, *, now: datetime
) -> int:
    """Looks for the records of a domain's keys, and moves each key on as far as it can go.

    Returns webhook deliveries queued: ring when not 0. A domain that is gone is no error.
    """
    async with store.worker() as db:
        row = await dkim_keys.domain(db, domain_id)
        keys = await dkim_keys.of_domain(db, domain_id)
    if row is None:
        return 0
    looked = [key for key in keys if key["state"] != RETIRED or key["seen"] is not False]
    found = await asyncio.gather(*(look_up(dkim_record(key, row["name"]), resolver) for key in looked))
    seen = {key["id"]: there for key, there in zip(looked, found, strict=True) if there is not None}
    made: list[NewKey] = []
    if rotation_due(row, keys, now):
        made = await asyncio.to_thread(new_keys, keyring, selectors(ALGORITHMS, now))
    async with store.worker() as db:
        if await domains.find_locked(db, domain_id) is None:
            return 0
        changed = await _move_on(db, domain_id, seen, now)
        keys = await dkim_keys.of_domain(db, domain_id)
        if made and not any(key["state"] in NEXT for key in keys):
            await dkim_keys.insert(db, row["org_id"], domain_id, made)
            changed = True
        row, keys = await dkim_keys.domain(db, domain_id), await dkim_keys.of_domain(db, domain_id)
        after = await domains.find(db, domain_id)
        assert row is not None and after is not None
        await dkim_keys.write_due(db, domain_id, due_in(row, keys, now))
        return await raise_event(db, "domain.updated", after, published) if changed else 0


async def _move_on(db: Connection, domain_id: UUID, seen: Mapping[UUID, bool], now: datetime) -> bool:
    """Whether a key has changed its state, or whether its record has come or gone."""
    before = await dkim_keys.of_domain(db, domain_id)
    await dkim_keys.write_seen(db, seen, now)
    changed = any(_shows_otherwise(key, seen.get(key["id"])) for key in before)
    for key in before:
        state = next_state(key, seen.get(key["id"]), now)
        if state == key["state"]:
            continue
        changed = True
        if state == ACTIVE:
            await _use(db, await dkim_keys.of_domain(db, domain_id), key["id"], now)
        else:
            await dkim_keys.move(db, key["id"], state, now)
    old = [key["id"] for key in before if key["state"] == RETIRED and now - key["retired_at"] > _memory(key)]
    if old:
        await dkim_keys.forget(db, old)
    return changed


def _memory(key: Key) -> timedelta:
    """How long its selector is not used again; one that nobody has ever met may be."""
    return MEMORY if key["seen"] or key["active_since"] is not None else timedelta(days=1)


def _shows_otherwise(key: Key, there: bool | None) -> bool:
    """Whether the record of a key that signs no more has gone, or is found to be still there: advice follows from it."""
    if there is None or key["state"] not in (RETIRING, RETIRED):
        return False
    known = key["seen"] if key["seen"] is not None else key["state"] == RETIRING
    return bool(known != there)


def next_state(key: Key, there: bool | None, now: datetime) -> str:
    """`there`: whether its record was found just now; None: nobody could tell, so that it stays as it is."""
    state: str = key["state"]
    if state == PENDING and there:
        return PUBLISHED
    if state == PUBLISHED and there is False:
        return PENDING
    if state == PUBLISHED and there and now - key["published_at"] >= PROPAGATION:
        return ACTIVE
    if state == RETIRING and now >= key["keep_until"]:
        return RETIRED
    return state


def rotation_at(domain: Mapping[str, Any], keys: Sequence[Key]) -> datetime | None:
    """When its keys change by themselves. None: never, or the next ones are made already."""
    active = [key["active_since"] for key in keys if key["state"] == ACTIVE]
    if domain["dkim_rotate_days"] is None or domain["status"] not in OWNED or not active:
        return None
    if any(key["state"] in NEXT for key in keys):
        return None
    first: datetime = min(active)
    return first + timedelta(days=domain["dkim_rotate_days"])


def rotation_due(domain: Mapping[str, Any], keys: Sequence[Key], now: datetime) -> bool:
    at = rotation_at(domain, keys)
    return at is not None and at <= now and len(keys) + len(ALGORITHMS) <= MOST


def due_in(domain: Mapping[str, Any], keys: Sequence[Key], now: datetime) -> float | None:
    """Seconds to the next look at a domain's keys. None: nothing waits."""
    times = [seconds for key in keys if (seconds := _key_due_in(key, now)) is not None]
    at = rotation_at(domain, keys)
    if at is not None:
        times.append(max(MINUTE, _seconds(now, at)))
    return min(times) * random.uniform(1, 1.1) if times else None  # noqa: S311 - so that they do not all come at once


def _key_due_in(key: Key, now: datetime) -> float | None:
    state = key["state"]
    if state == PENDING:  # every minute at first, at last every hour
        return min(HOUR, max(MINUTE, _seconds(key["created_at"], now) / 10))
    if state == PUBLISHED:
        return max(MINUTE, _seconds(now, key["published_at"] + PROPAGATION))
    if state == RETIRING:
        return min(DAY, max(MINUTE, _seconds(now, key["keep_until"])))
    return DAY if state == RETIRED else None


def _seconds(since: datetime, until: datetime) -> float:
    return (until - since).total_seconds()
