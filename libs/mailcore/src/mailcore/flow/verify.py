"""Whether a customer's domain publishes what it needs (mailcore.dns.required), written into its row.

1. each required record is looked up with a resolver that keeps nothing: the customer has just changed it
2. each gets a status: verified, pending (not there yet), failed (not there after 72 hours), temporary_failure (no answer from
   the DNS, or a verified domain lost it less than 72 hours ago)
3. the domain's status follows from them; a change raises `domain.updated`

DMARC (RFC 9989) is looked up too and kept beside them: it is advice, not a requirement.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dns.required import Required, relative_name, required_records
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.events import timestamp
from mailcore.kit.ids import uuid7
from mailcore.kit.log import logger
from mailcore.store import events
from mailcore.store.events import NewEvent
from mailcore.store.session import Connection, Store

log = logger(__name__)

PATIENCE = timedelta(hours=72)
"""How long records may be missing before that is a failure."""
VERIFIED, PENDING, FAILED, TEMPORARY = "verified", "pending", "failed", "temporary_failure"
DMARC = "dmarc"


@dataclass(frozen=True, slots=True)
class Published:
    """What we tell customers to publish."""

    mx_host: str
    spf: str
    """The mechanism that covers us."""


async def pending(store: Store, limit: int = 100) -> list[UUID]:
    """Domains that wait for a look: asked for, or missing a record."""
    async with store.worker() as db:
        rows = await db.fetch(_PENDING, limit)
    return [row["id"] for row in rows]


# every minute at first, then less often, at last every hour
_PENDING = """
SELECT id FROM domains
WHERE (status IN ('pending', 'temporary_failure', 'partially_verified') OR record_status @? '$.* ? (@ == "temporary_failure")')
  AND (checked_at IS NULL
       OR checked_at + greatest(interval '1 minute', least(interval '1 hour', (checked_at - created_at) / 10)) < now())
ORDER BY checked_at NULLS FIRST LIMIT $1
"""


async def verify(
    store: Store,
    resolver: Resolver,
    domain_id: UUID,
    published: Published,
    *,
    now: datetime,
    exempt: Collection[str] = (),
) -> int:
    """Returns webhook deliveries queued: ring when not 0. A domain that is gone is no error; one in `exempt` stays as it is."""
    async with store.worker() as db:
        row = await db.fetchrow(_DOMAIN, domain_id)
    if row is None or row["name"] in exempt:
        return 0
    wanted = required_records(
        row["name"],
        dkim=[(key["selector"], key["public_txt"]) for key in row["dkim"]],
        mx_host=published.mx_host,
        spf=published.spf,
        return_path=row["custom_return_path"],
        sending=row["sending"],
        receiving=row["receiving"],
    )
    found = await asyncio.gather(*(look_up(record, resolver) for record in wanted), _dmarc(row["name"], resolver))
    since = row["verified_at"] or row["created_at"]
    records = statuses(wanted, found, row["record_status"], overdue=now - since > PATIENCE)
    status = overall(wanted, records)
    if found[-1] is not None:
        records[DMARC] = VERIFIED if found[-1] else PENDING
    async with store.worker() as db:
        return await _write(db, row, wanted, records, status, now)


_DOMAIN = """
SELECT d.*, (SELECT coalesce(jsonb_agg(jsonb_build_object('selector', k.selector, 'public_txt', k.public_txt)
                                       ORDER BY k.algorithm DESC), '[]')
             FROM dkim_keys k WHERE k.domain_id = d.id AND k.active) AS dkim
FROM domains d WHERE d.id = $1
"""


# ---- 1. look up ------------------------------------------------------------------------------------------------------


async def look_up(required: Required, resolver: Resolver) -> bool | None:
    """Whether the record is there; None when the DNS did not answer."""
    try:
        if required.type == "MX":
            answer = await resolver.mx(required.fqdn)
            return any(record.host == required.value.lower() for record in answer.values)
        texts = (await resolver.txt(required.fqdn)).values
    except NoSuchDomain:
        return False
    except TemporaryDNSError:
        return None
    if required.record == "DKIM":
        return any(same_key(text, required.value) for text in texts)
    # RFC 7208 §4.5: two SPF records are an error, whatever they say
    spf = [text for text in texts if text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")]
    return len(spf) == 1 and required.value.split()[1].lower() in spf[0].lower().split()


async def _dmarc(domain: str, resolver: Resolver) -> bool | None:
    try:
        texts = (await resolver.txt(f"_dmarc.{domain}")).values
    except NoSuchDomain:
        return False
    except TemporaryDNSError:
        return None
    return any(
        re.match(r"v\s*=\s*DMARC1\s*(?:;|$)", text) for text in texts
    )  # RFC 9989: the tag v, exactly DMARC1, first


def same_key(text: str, wanted: str) -> bool:
    """Whether a published key record carries our key; blanks and other tags do not matter (RFC 6376 §3.6.1)."""
    return _tags(text).get("p") == _tags(wanted).get("p") != ""


def _tags(text: str) -> dict[str, str]:
    pairs = (tag.partition("=") for tag in text.split(";"))
    return {name.strip().lower(): re.sub(r"\s+", "", value) for name, _, value in pairs}


# ---- 2. and 3. statuses ----------------------------------------------------------------------------------------------


def statuses(
    wanted: Sequence[Required], found: Sequence[bool | None], before: Mapping[str, str], *, overdue: bool
) -> dict[str, str]:
    def status(record: Required, there: bool | None) -> str:
        if there:
            return VERIFIED
        was = before.get(record.key)
        if there is None:
            return TEMPORARY if was in (VERIFIED, TEMPORARY) else PENDING
        if was in (VERIFIED, TEMPORARY):
            return FAILED if overdue else TEMPORARY
        return FAILED if overdue else PENDING

    return {record.key: status(record, there) for record, there in zip(wanted, found, strict=False)}


def overall(wanted: Sequence[Required], records: Mapping[str, str]) -> str:
    """The domain's status from those of its records: sending and receiving are verified each for itself."""
    groups = [
        [records[record.key] for record in wanted if record.record != "Receiving"],
        [records[record.key] for record in wanted if record.record == "Receiving"],
    ]
    parts = [_worst(group) for group in groups if group]
    if all(part == VERIFIED for part in parts):
        return VERIFIED
    # a capability whose records the DNS would not tell just now keeps what it had
    if all(part in (VERIFIED, TEMPORARY) for part in parts):
        return VERIFIED
    if len(parts) == 2 and VERIFIED in parts:
        return "partially_failed" if FAILED in parts else "partially_verified"
    return FAILED if FAILED in parts else PENDING


def _worst(group: Sequence[str]) -> str:
    return next(status for status in (FAILED, PENDING, TEMPORARY, VERIFIED) if status in group)


async def _write(
    db: Connection,
    before: asyncpg.Record,
    wanted: Sequence[Required],
    records: dict[str, str],
    status: str,
    now: datetime,
) -> int:
    complete = all(records[record.key] == VERIFIED for record in wanted)
    await db.execute("SAVEPOINT stored")
    try:
        await db.execute(_STORE, before["id"], status, records, now, complete)
    except asyncpg.UniqueViolationError:
        await db.execute("ROLLBACK TO SAVEPOINT stored")
        status = FAILED
        log.warning("a domain is verified by another organization already", domain=before["name"])
        await db.execute(_STORE, before["id"], status, records, now, False)
    kept = {key: value for key, value in before["record_status"].items() if key != DMARC}
    if status == before["status"] and kept == {key: value for key, value in records.items() if key != DMARC}:
        return 0
    detail = {
        "id": str(before["id"]),
        "name": before["name"],
        "status": status,
        "created_at": timestamp(before["created_at"]),
        "region": before["region"],
        "capabilities": {name: "enabled" if before[name] else "disabled" for name in ("sending", "receiving")},
        "records": [_shown(record, records[record.key]) for record in wanted],
    }
    return await events.insert(
        db, [NewEvent(uuid7(), before["org_id"], "domain.updated", before["id"], datetime.now(UTC), None, detail)]
    )


_STORE = """
UPDATE domains SET status = $2, record_status = $3, checked_at = $4,
                   verified_at = CASE WHEN $5 THEN $4 ELSE verified_at END
WHERE id = $1
"""


def _shown(required: Required, status: str) -> dict[str, Any]:
    """As the API shows it."""
    spf_text = required.record == "SPF" and required.type == "TXT"
    shown: dict[str, Any] = {
        "record": "Receiving MX" if required.record == "Receiving" else required.record,
        "name": relative_name(required.fqdn),
        "type": required.type,
        "ttl": "Auto",
        "status": status,
        "value": f'"{required.value}"' if spf_text else required.value,
    }
    if required.priority is not None:
        shown["priority"] = required.priority
    return shown
