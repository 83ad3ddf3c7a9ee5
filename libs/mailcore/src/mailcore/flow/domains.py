"""A domain's life as its owner asks for it: made, changed, verified, removed. Each raises its event in its own transaction.

What the DNS says of it is flow.verify's; how it changes hands is flow.claims'.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from mailcore.dns.names import MAX_DOMAIN, MAX_LABEL, is_domain, normalize_domain
from mailcore.dns.required import Published, dkim_record, required_records
from mailcore.dns.suffixes import is_public_suffix
from mailcore.dns.verdict import FAILED, NOT_STARTED, PENDING, VERIFIED, overall
from mailcore.events import timestamp
from mailcore.kit.errors import Invalid, NotFound, Refused
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.kit.settings import Domains as Settings
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, generate_ed25519, generate_rsa
from mailcore.queue.bell import Ringer
from mailcore.queue.jobs import OUTBOUND, VERIFY, WEBHOOKS
from mailcore.store import claims, domains, events
from mailcore.store.domains import NewDomain, NewKey
from mailcore.store.events import NewEvent
from mailcore.store.session import Connection, Store

RSA_SELECTOR = "postroom"
ED25519_SELECTOR = "postroom-ed25519"
TRACKING_PAUSE = timedelta(hours=24)
MAX_NAME = MAX_DOMAIN - MAX_LABEL - 1
"""A return path may be a label of that length in front of it."""


def published(settings: Settings, *, route: str, source_ip: str | None, tracking_url: str) -> Published:
    """What this installation tells customers to publish, by how its mail leaves and where opens and clicks come in."""
    spf = settings.spf or f"a:{settings.mx_host}"
    if not settings.spf and route == "mx" and source_ip is not None:
        spf = f"ip{ipaddress.ip_address(source_ip).version}:{source_ip}"
    return Published(
        mx_host=settings.mx_host,
        spf=spf,
        tracking_host=settings.tracking_host or _host_name(tracking_url) or settings.mx_host,
        tracking_caa=settings.tracking_caa,
        route=route,
        source_ip=source_ip,
    )


def _host_name(url: str) -> str | None:
    """A CNAME's target: a full name, no address."""
    host = urlsplit(url).hostname or ""
    return host if "." in host and is_domain(host) else None


class Domains:
    """The door.

    most    domains an organization may have
    exempt  names that are verified whatever the DNS says: the lab's own
    """

    def __init__(
        self,
        store: Store,
        ringer: Ringer,
        keyring: Keyring,
        published: Published,
        *,
        most: int,
        exempt: Collection[str] = (),
    ) -> None:
        self._store = store
        self._ringer = ringer
        self._keyring = keyring
        self.published = published
        self._most = most
        self._exempt = exempt
        self._making_keys = asyncio.Semaphore(
            2
        )  # an RSA key takes some 100 ms of a thread, and there are other threads' work

    async def create(self, domain: NewDomain) -> asyncpg.Record:
        """Raises Refused: the name is taken, or there are too many."""
        check_labels(domain.custom_return_path, domain.tracking_subdomain)
        async with self._store.tenant(domain.org_id) as db:  # asked before the keys are made: they cost
            await self._may_have(db, domain)
        keys = await self.keys()
        async with self._store.tenant(domain.org_id) as db:
            await self._may_have(db, domain)
            row = await domains.find(db, domain.id) if await domains.insert(db, domain, keys) else None
            if row is None:
                raise registered(domain.name)
            queued = await raise_event(db, "domain.created", row, self.published)
        self.ring(queued)
        return row

    async def _may_have(self, db: Connection, domain: NewDomain) -> None:
        count = await domains.count_locked(db, domain.org_id)
        if await domains.named(db, domain.name) is not None:
            raise registered(domain.name)
        if await domains.taken(db, domain.name, domain.org_id):
            raise Refused(f"{registered(domain.name).public} If it is yours, claim it with `POST /domains/claim`.")
        self.check_room(count)

    def check_room(self, count: int) -> None:
        """Raises Refused when no further one may be made."""
        if count >= self._most:
            raise Refused(f"You have reached the limit of {self._most} domains. Remove one you no longer need.")

    async def keys(self, suffix: str = "") -> list[NewKey]:
        """A new RSA and a new Ed25519 key, sealed."""
        return await self.make_keys([(RSA_SHA256, RSA_SELECTOR + suffix), (ED25519_SHA256, ED25519_SELECTOR + suffix)])

    async def make_keys(self, wanted: Sequence[tuple[str, str]]) -> list[NewKey]:
        """As `new_keys`; not many at the same time."""
        async with self._making_keys:
            return await asyncio.to_thread(new_keys, self._keyring, wanted)

    async def ask(self, org_id: UUID, id_: UUID) -> None:
        """A look at its DNS. Raises NotFound."""
        async with self._store.tenant(org_id) as db:
            before = await domains.find_locked(db, id_)
            if before is None or not await domains.begin_verification(db, id_):
                raise NotFound("Domain not found")
            queued = await self._updated(db, before)
        self.ring(queued)
        await self._ringer.enqueue(VERIFY, str(id_))  # when Redis is away, the sweep of due domains comes to it

    async def update(self, org_id: UUID, id_: UUID, asked: Mapping[str, Any]) -> None:
        """`asked`: columns of `domains` that were named in the request. Raises NotFound, Invalid."""
        async with self._store.tenant(org_id) as db:
            before = await domains.find_locked(db, id_)
            if before is None:
                raise NotFound("Domain not found")
            changed = {name: value for name, value in asked.items() if before[name] != value}
            if not changed:
                return
            if "tracking_subdomain" in changed:
                changed |= _tracking(before, changed["tracking_subdomain"], datetime.now(UTC))
            changed |= self._judged(before, changed)
            await domains.update(db, id_, changed)
            queued = await self._updated(db, before, always=True)
        self.ring(queued)
        if before["status"] != NOT_STARTED:
            await self._ringer.enqueue(VERIFY, str(id_))

    def _judged(self, before: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
        """What its status becomes by another choice of capabilities, before the DNS is asked."""
        after = {**before, **changed}
        if not (after["sending"] or after["receiving"]):
            raise Invalid("Enable at least one of the capabilities `sending` and `receiving`.")
        if not {"sending", "receiving"} & changed.keys() or after["status"] in (NOT_STARTED, PENDING, FAILED):
            return {}
        if after["name"] in self._exempt:
            return {}
        verdict = overall(required_records(after, self.published), _known(before, self.published))
        missing = {} if verdict.status == VERIFIED else {"waiting_since": datetime.now(UTC)}
        return {"status": verdict.status, "lacking": verdict.lacking, **missing}

    async def _updated(self, db: Connection, before: Mapping[str, Any], *, always: bool = False) -> int:
        """The event, where something that it shows has changed."""
        after = await domains.find(db, before["id"])
        if after is None or (not always and after["status"] == before["status"]):
            return 0
        return await raise_event(db, "domain.updated", after, self.published)

    async def remove(self, org_id: UUID, id_: UUID) -> None:
        """Its keys go with it; mail that still waits fails, each with its event (outbound: `domain-deleted`). Raises NotFound."""
        async with self._store.tenant(org_id) as db:
            row = await domains.find_locked(db, id_)
            if row is None:
                raise NotFound("Domain not found")
            await claims.cancel(db, id_)
            sites = await domains.delete(db, id_)
            queued = await raise_event(db, "domain.deleted", row, self.published)
        self.ring(queued)
        for site in sites:
            self._ringer.ring(OUTBOUND, site)

    def ring(self, queued: int) -> None:
        if queued:
            self._ringer.ring(WEBHOOKS)


def registered(name: str) -> Refused:
    return Refused(f"The `{name}` domain has been registered already.")


def domain_name(text: str) -> str:
    """What a caller wrote as a domain's name, in normal form. Raises Invalid."""
    try:
        name = normalize_domain(text.strip(" "))
    except Invalid as error:
        raise Invalid(f"Invalid `name` field. {error.public}") from None
    if "." not in name:
        raise Invalid("Invalid `name` field. It must be a full domain name such as `example.com`.")
    if is_public_suffix(name):
        raise Invalid(f"Invalid `name` field. Names are registered below `{name}`: use one of them.")
    if len(name) > MAX_NAME:
        raise Invalid(
            f"Invalid `name` field. It may have at most {MAX_NAME} characters, so that its records have names too."
        )
    return name


def check_labels(return_path: str, tracking: str | None) -> None:
    if return_path == tracking:  # RFC 1034 §3.6.2: beside a CNAME stands nothing
        raise Invalid("`tracking_subdomain` and `custom_return_path` must differ: a CNAME allows no MX beside it.")


def _tracking(before: Mapping[str, Any], wanted: str | None, now: datetime) -> dict[str, Any]:
    if wanted is None:
        raise Invalid("The `tracking_subdomain` can be changed but not removed: mail that was sent links to it.")
    check_labels(before["custom_return_path"], wanted)
    last, present = before["tracking_changed_at"], before["tracking_subdomain"]
    if present is None:
        return {"tracking_changed_at": now}
    if last is not None and now - last < TRACKING_PAUSE:
        again = (last + TRACKING_PAUSE).isoformat(timespec="minutes")
        raise Invalid(f"The `tracking_subdomain` can be changed once in 24 hours. Try again after {again}.")
    old = [present, *(each for each in before["old_tracking"] if each not in (present, wanted))]
    return {"tracking_changed_at": now, "old_tracking": old}


def new_keys(keyring: Keyring, wanted: Sequence[tuple[str, str]]) -> list[NewKey]:
    """One for each `(algorithm, selector)`, sealed. Of RSA each takes some 100 ms."""
    keys = []
    for algorithm, selector in wanted:
        private, public_txt = generate_rsa() if algorithm == RSA_SHA256 else generate_ed25519()
        keys.append(NewKey(uuid7(), selector, algorithm, keyring.seal(private, "dkim"), public_txt))
    return keys


# ---- as it is shown --------------------------------------------------------------------------------------------------


def records_shown(row: Mapping[str, Any], published: Published, *, webhook: bool = False) -> list[dict[str, Any]]:
    """What is required; behind its DKIM keys those that will sign or have just ceased to, whose records belong in the DNS too."""
    unseen = NOT_STARTED if row["status"] == NOT_STARTED else PENDING
    known = _known(row, published)
    required = required_records(row, published)
    records = [each.shown(known.get(each.key, unseen), webhook=webhook) for each in required]
    last = max((at for at, each in enumerate(required, 1) if each.record == "DKIM"), default=0)
    records[last:last] = [
        dkim_record(key, row["name"]).shown(VERIFIED if key["seen"] else PENDING, webhook=webhook)
        for key in row["dkim_other"]
        if key["state"] != "retired"
    ]
    return records


def _known(row: Mapping[str, Any], published: Published) -> dict[str, str]:
    """The status of each record. Of a domain that was verified and never looked at (the lab's) all are as good as seen."""
    known: dict[str, str] = row["record_status"]
    if not known and row["status"] == VERIFIED:
        return {each.key: VERIFIED for each in required_records(row, published)}
    return known


async def raise_event(db: Connection, type_: str, row: Mapping[str, Any], published: Published) -> int:
    """`row`: columns of `domains` with `dkim`. Returns webhook deliveries queued."""
    detail = {
        "id": str(row["id"]),
        "name": row["name"],
        "status": row["status"],
        "created_at": timestamp(row["created_at"]),
        "region": row["region"],
        "open_tracking": row["open_tracking"],
        "click_tracking": row["click_tracking"],
        "tracking_subdomain": row["tracking_subdomain"],
        "capabilities": {name: "enabled" if row[name] else "disabled" for name in ("sending", "receiving")},
        "records": records_shown(row, published, webhook=True),
        "dkim_keys": [
            {"selector": key["selector"], "algorithm": key["algorithm"], "state": key.get("state", "active")}
            for key in (*row["dkim"], *row["dkim_other"])
        ],
    }
    return await events.insert(
        db, [NewEvent(uuid7(), row["org_id"], type_, row["id"], datetime.now(UTC), None, detail)]
    )
