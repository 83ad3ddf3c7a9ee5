"""Whether a customer's domain publishes what it needs (mailcore.dns.required), written into its row.

1. each required record is looked up with a resolver that keeps nothing: the customer has just changed it
2. each gets a status: verified, pending (not there yet), failed (not there for 72 hours), temporary_failure (no answer from
   the DNS, or a verified domain lost it less than 72 hours ago)
3. the domain's status follows from them; a change raises `domain.updated`
4. the next look: soon while a record is missing, then less often; daily while all is well; none when it has failed

What is advice and no requirement (DMARC, MTA-STS, TLS-RPT, the count of SPF lookups) is looked up too and kept in `seen`
(flow.advice words it).
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dns.required import Published, Required, caa_key, required_records
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.suffixes import registered_domain
from mailcore.dns.verdict import (
    FAILED,
    NOT_STARTED,
    OWNED,
    PENDING,
    TEMPORARY,
    VERIFIED,
    Verdict,
    look_up,
    may_issue,
    overall,
    statuses,
)
from mailcore.flow.addresses import Source, addresses
from mailcore.flow.domains import raise_event
from mailcore.kit.log import logger
from mailcore.mailauth.spf.check import Result, check_host
from mailcore.mailauth.spf.count import count_lookups
from mailcore.store import domains
from mailcore.store.domains import Looked
from mailcore.store.session import Connection, Store

log = logger(__name__)

PATIENCE = timedelta(hours=72)
"""How long records may be missing before that is a failure."""
SPF_SECONDS = 20.0
"""For counting the lookups of a record: somebody else wrote it."""
DAY, HOUR, MINUTE = 86_400.0, 3_600.0, 60.0


async def claim_due(store: Store, limit: int = 100) -> list[UUID]:
    """Domains that are due for a look: asked for, missing a record, or a day after the last one."""
    async with store.worker() as db:
        return await domains.claim_due(db, limit)


async def claim_one(store: Store, id_: UUID) -> bool:
    """Whether this one is due; then it is the caller's to look at. So a hundred requests make one look."""
    async with store.worker() as db:
        return await domains.claim_one(db, id_)


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
        row = await domains.find(db, domain_id)
        leaves_from: list[Source] = []
        if published.route == "mx" and row is not None and row["sending"]:
            leaves_from = (await addresses(db, published.source_ip, "")).of(row["name"])
    if row is None or row["status"] == NOT_STARTED or row["name"] in exempt:
        return 0
    wanted = [each for each in required_records(row, published) if each.type != "CAA"]
    found = await asyncio.gather(*(look_up(record, resolver) for record in wanted))
    caa, seen, covered = await asyncio.gather(
        _caa(row, published, resolver), look_around(row, resolver), _cover(row, leaves_from, resolver)
    )
    seen |= covered
    async with store.worker() as db:
        before = await domains.find_locked(db, domain_id)
        if before is None or before["revision"] != row["revision"]:
            return 0  # its owner has changed it meanwhile, and that asked for a look of its own
        if before["checked_at"] != row["checked_at"] and before["checked_at"] > now:
            return 0  # a look that began later has been faster, and knows more
        looked = _judge(before, wanted, found, caa, seen, now)
        return await _write(db, before, looked, published)


async def _caa(row: Mapping[str, Any], published: Published, resolver: Resolver) -> dict[str, bool | None]:
    """Whether each tracking name may get a certificate; only where a CAA record forbids it is one of ours required."""
    if not published.tracking_caa or not published.tracking_host or row["tracking_subdomain"] is None:
        return {}
    found: dict[str, bool | None] = {}
    for subdomain in (row["tracking_subdomain"], *row["old_tracking"]):
        key = caa_key(subdomain)
        try:
            found[key] = await may_issue(f"{subdomain}.{row['name']}", published.tracking_caa, resolver)
        except TemporaryDNSError:
            found[key] = None
    return found


# ---- what is advice --------------------------------------------------------------------------------------------------


async def look_around(row: Mapping[str, Any], resolver: Resolver) -> dict[str, Any]:
    """`{"dmarc", "dmarc_above", "mta_sts", "tls_rpt"}`: the record, "" where there is none, None when the DNS did not answer;
    `dmarc_above` is that of the registered domain, which holds where there is none. And `spf`: what counting the lookups of the
    domain's own record gave, or None where it has none."""
    name = row["name"]
    above = registered_domain(name)
    dmarc, dmarc_above, mta_sts, tls_rpt, spf = await asyncio.gather(
        _tagged(f"_dmarc.{name}", "DMARC1", resolver),
        _tagged(f"_dmarc.{above}", "DMARC1", resolver) if above not in (None, name) else _nothing(),
        _tagged(f"_mta-sts.{name}", "STSv1", resolver),
        _tagged(f"_smtp._tls.{name}", "TLSRPTv1", resolver),
        _spf(name, resolver),
    )
    return {"dmarc": dmarc, "dmarc_above": dmarc_above, "mta_sts": mta_sts, "tls_rpt": tls_rpt, "spf": spf}


async def _cover(row: Mapping[str, Any], leaves_from: Sequence[Source], resolver: Resolver) -> dict[str, Any]:
    """`{"leaves_from", "uncovered"}`: addresses that mail of the domain leaves from, and those that the return path's SPF does not
    pass; one about which the DNS does not answer is passed."""
    path = f"{row['custom_return_path']}.{row['name']}"
    ips = [source.ip for source in leaves_from if source.public]
    found = await asyncio.gather(*(_passes(ip, path, resolver) for ip in ips))
    return {"leaves_from": ips, "uncovered": [ip for ip, passes in zip(ips, found, strict=True) if not passes]}


async def _passes(ip: str, path: str, resolver: Resolver) -> bool:
    try:
        async with asyncio.timeout(SPF_SECONDS):
            found = await check_host(ip, path, f"bounce@{path}", resolver)
    except TimeoutError:
        return True
    return found.result in (Result.PASS, Result.TEMPERROR)


async def _nothing() -> str:
    return ""


async def _spf(name: str, resolver: Resolver) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(SPF_SECONDS):
            count = await count_lookups(name, resolver)
    except TimeoutError:
        return None
    return None if count is None else count.as_json()


async def _tagged(name: str, version: str, resolver: Resolver) -> str | None:
    """The record that begins with this version (RFC 9989: the tag v, exactly DMARC1, first; RFC 8461 §3.1, RFC 8460 §3)."""
    try:
        texts = (await resolver.txt(name)).values
    except NoSuchDomain:
        return ""
    except TemporaryDNSError:
        return None
    return next((text[:1000] for text in texts if re.match(rf"v\s*=\s*{version}\s*(?:;|$)", text)), "")


# ---- the verdict -----------------------------------------------------------------------------------------------------


def _judge(
    before: Mapping[str, Any],
    wanted: Sequence[Required],
    found: Sequence[bool | None],
    caa: Mapping[str, bool | None],
    seen: dict[str, Any],
    now: datetime,
) -> Looked:
    of_mail = [there for record, there in zip(wanted, found, strict=True) if not record.record.startswith("Tracking")]
    complete = all(of_mail)
    since: datetime | None = before["waiting_since"]
    if complete:
        since = None
    elif since is None and False in of_mail:
        since = now
    overdue = since is not None and now - since > PATIENCE
    tracking_overdue = now - (before["tracking_changed_at"] or before["created_at"]) > PATIENCE
    was = before["record_status"]
    records = {
        key: status
        for tracking, late in ((False, overdue), (True, tracking_overdue))
        for key, status in statuses(*_split(wanted, found, tracking=tracking), was, overdue=late).items()
    }
    for key, allowed in caa.items():
        if key in was or allowed is False:
            records[key] = was[key] if allowed is None else VERIFIED if allowed else PENDING
    verdict = overall(wanted, records)
    return Looked(
        status=verdict.status,
        lacking=verdict.lacking,
        record_status=records,
        seen=seen,
        at=now,
        complete=complete,
        waiting_since=since,
        due_in_seconds=_due_in(verdict, records, since, before, now),
    )


def _split(
    wanted: Sequence[Required], found: Sequence[bool | None], *, tracking: bool
) -> tuple[list[Required], list[bool | None]]:
    chosen = [
        (record, there)
        for record, there in zip(wanted, found, strict=True)
        if record.record.startswith("Tracking") == tracking
    ]
    return [record for record, _ in chosen], [there for _, there in chosen]


def _due_in(
    verdict: Verdict, records: Mapping[str, str], since: datetime | None, before: Mapping[str, Any], now: datetime
) -> float | None:
    """Seconds to the next look: every minute at first, at last every hour, while a record is missing; a day when all is well."""
    if verdict.status == FAILED:
        return None
    if {PENDING, TEMPORARY} & set(records.values()):
        start = since or before["tracking_changed_at"] or before["checked_at"] or now
        seconds = min(HOUR, max(MINUTE, (now - start).total_seconds() / 10))
    else:
        seconds = DAY
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - so that they do not all come at once


async def _write(db: Connection, before: asyncpg.Record, looked: Looked, published: Published) -> int:
    await db.execute("SAVEPOINT stored")
    try:
        await domains.write_look(db, before["id"], looked)
    except asyncpg.UniqueViolationError:
        await db.execute("ROLLBACK TO SAVEPOINT stored")
        log.warning("a domain is verified by another organization already", domain=before["name"])
        await domains.write_look(db, before["id"], _taken(looked))
    after = await domains.find(db, before["id"])
    if after is None or all(after[name] == before[name] for name in ("status", "lacking", "record_status")):
        return 0
    if before["status"] in OWNED and after["status"] not in OWNED:
        log.warning("a domain has lost its records and stops sending", domain=before["name"])
    return await raise_event(db, "domain.updated", after, published)


def _taken(looked: Looked) -> Looked:
    return Looked(
        status=FAILED,
        lacking=None,
        record_status=looked.record_status,
        seen={**looked.seen, "taken": True},
        at=looked.at,
        complete=False,
        waiting_since=looked.waiting_since,
        due_in_seconds=None,
    )
