"""DMARC reports that came by mail (RFC 9990): stored for the organization's domain that they are about, once however often it is.

Anybody may send one. Whether DMARC has proven who wrote the mail stands beside each (`proven`), and reports of nobody proven are
taken in small numbers only: they must not fill the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dsn import dmarc_report
from mailcore.dsn.dmarc_report import BrokenReport, Report
from mailcore.kit.errors import Exceeded, NotFound, Refused
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.mailauth.dmarc.evaluate import Verdict
from mailcore.mime.parse import Message
from mailcore.store import dmarc_reports
from mailcore.store.dmarc_reports import Received
from mailcore.store.session import Connection, Store

MAX_MAIL = 4_000_000
"""Octets of a mail that a report is looked for in."""
MAX_A_DAY, MAX_UNPROVEN_A_DAY = 1_000, 100
"""Reports that are taken in about one domain, from senders that are proven and from others."""


@dataclass(frozen=True, slots=True)
class Letter:
    """The mail that reports came in."""

    org_id: UUID
    arrival_id: UUID | None
    source: str
    """Its envelope's sender."""
    proven: str | None
    """The domain that it is proven to be from; None: nobody's."""
    uploaded: bool = False
    """There is no mail: the organization itself brought the report."""


def proven(auth: Mapping[str, Any] | None) -> str | None:
    """The domain of an author whom DMARC has proven. `auth`: as in `arrivals.auth`."""
    dmarc = (auth or {}).get("dmarc") or {}
    return dmarc.get("domain") if dmarc.get("result") == Verdict.PASS else None


async def receive_mail(store: Store, letter: Letter, raw: bytes) -> list[tuple[str, str]]:
    """The reports in a mail. What was decided and why, in pairs; empty when there is none. Raises Unavailable: the mail may be read
    again, and a report that came twice is one."""
    if len(raw) > MAX_MAIL:
        return [("no DMARC report", f"A mail with reports has at most {MAX_MAIL} octets.")]
    found = await asyncio.to_thread(lambda: list(dmarc_report.in_mail(Message(raw))))
    told = []
    for each in found:
        if isinstance(each, BrokenReport):
            told.append(("no DMARC report", f"{str(each).capitalize()}."))
        else:
            told.append(await _take(store, letter, each))
    return told


async def _take(store: Store, letter: Letter, report: Report) -> tuple[str, str]:
    try:
        name, id_ = await receive(store, letter, report)
    except (Refused, Exceeded) as error:
        return "DMARC report refused", error.public
    if id_ is None:
        return "DMARC report stored", f"The one of {report.organization} about {name} was here already."
    return "DMARC report stored", f"{report.organization} tells of {report.messages} messages in the name of {name}."


async def receive(store: Store, letter: Letter, report: Report) -> tuple[str, UUID | None]:
    """The domain's name, and the id of what is on disk now; None: it came before.

    Raises NotFound (it is about no domain of the organization), Exceeded (too many today), Unavailable.
    """
    id_ = uuid7()
    async with store.tenant(letter.org_id) as db:
        domain = await _own(db, report)
        if domain is None:
            raise NotFound(f"The report is about {report.domain}, which is none of the organization's domains.")
        name, domain_id = domain
        since = lower_bound(datetime.now(UTC) - timedelta(days=1))
        most = MAX_A_DAY if letter.proven or letter.uploaded else MAX_UNPROVEN_A_DAY
        if await dmarc_reports.count_since(db, domain_id, since, proven=letter.proven is not None) >= most:
            raise Exceeded(f"Too many reports about {name} today.", name="rate_limit_exceeded", retry_after=3600)
        new = Received(
            id=id_,
            org_id=letter.org_id,
            domain_id=domain_id,
            arrival_id=letter.arrival_id,
            source=letter.source[:320],
            proven=letter.proven,
            organization=report.organization,
            contact=report.contact,
            report_id=report.report_id,
            begins_at=report.begins_at,
            ends_at=report.ends_at,
            messages=report.messages,
            passed=report.passed,
            quarantined=report.quarantined,
            rejected=report.rejected,
            policy=report.policy,
            defects=report.defects,
        )
        try:
            made = await dmarc_reports.receive(db, new, dmarc_reports.as_rows(report.rows))
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("The domain is gone.") from None
    return name, id_ if made else None


async def _own(db: Connection, report: Report) -> tuple[str, UUID] | None:
    """The organization's domain that a report is about: the one whose policy it names; else the nearest above it; else, of those
    below it, one that the records name, for a policy may stand higher up than what we know of."""
    labels = report.domain.split(".")
    parents = [".".join(labels[n:]) for n in range(1, len(labels))]
    found = dict(await dmarc_reports.own(db, report.domain, parents))
    for name in (report.domain, *parents):
        if name in found:
            return name, found[name]
    for row in report.rows:
        for name in sorted(found, key=len, reverse=True):
            if row.header_from == name or row.header_from.endswith(f".{name}"):
                return name, found[name]
    return None
