"""Reports about TLS (RFC 8460): a day's results to the domains that want them, and theirs about our domains taken in.

Sending, hourly, by whichever process comes first:

1. `plan`   a row for each past day and domain that something was counted for
2. claim    what is due, the next try written first
3. the domain's TXT record says where to; none: nobody wants it
4. the report is made once and stored; it says the same however often it is sent
5. to a mail address by `submit_in`, in the transaction that marks it: once. To an https URL by POST, under the guard: at least
   once, and the report's id tells that it is one
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from mailcore.dns import tls_rpt
from mailcore.dns.names import normalize_domain
from mailcore.dns.resolver import NoSuchDomain, Resolver
from mailcore.dsn import tls_report
from mailcore.dsn.tls_report import BrokenReport, Count, Letter, Report
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import Exceeded, Invalid, MailError, NotFound, Refused
from mailcore.kit.guard import GuardedClient
from mailcore.kit.ids import lower_bound, uuid7
from mailcore.kit.log import logger
from mailcore.mime.parse import Message
from mailcore.smtp.address import Address, parse_address
from mailcore.store import organizations, tls_reports, webhooks
from mailcore.store.session import Store
from mailcore.store.tls_reports import DueReport, Received

log = logger(__name__)

SPREAD_SECONDS = 4 * 3600.0
"""Within which a day's reports leave, so that not all the world's come at midnight (RFC 8460 §4.1)."""
AT_ONCE = 20
AGAIN_SECONDS = 1800.0
ATTEMPTS = 24
"""With AGAIN_SECONDS half a day; RFC 8460 §5.5 proposes a day, and older reports are of little use."""
POST_SECONDS = 30.0
KEEP_DAYS, KEEP_RECEIVED_DAYS = 30, 90
MAX_MAIL = 2_000_000
"""Octets of a mail that a report is looked for in: a report of MAX_PACKED as base64, and room for the rest."""
MAX_A_DAY = 1_000
"""Reports that are taken in about one domain."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who we say we are in reports."""

    organization: str
    """Its name."""
    from_: str
    """A mail address of a verified domain of the first organization. Empty: `tls-reports@` its oldest one."""


# ---- sending ---------------------------------------------------------------------------------------------------------


class TlsReports:
    def __init__(
        self,
        store: Store,
        submits: Submits,
        resolver: Resolver,
        client: GuardedClient,
        sender: Sender,
        *,
        spread: float = SPREAD_SECONDS,
    ) -> None:
        self._store = store
        self._submits = submits
        self._resolver = resolver
        self._client = client
        self._sender = sender
        self._spread = spread

    async def send(self) -> int:
        """All that are due. Returns how many came to an end. Raises Unavailable; what was done by then stays done."""
        async with self._store.worker() as db:
            await tls_reports.plan(db, spread=self._spread)
            await tls_reports.forget_old(db, days=KEEP_DAYS, received_days=KEEP_RECEIVED_DAYS)
        ended = 0
        while True:
            async with self._store.worker() as db:
                due = await tls_reports.claim(db, AT_ONCE, again=AGAIN_SECONDS)
            ended += sum(await asyncio.gather(*map(self._try, due)))
            if len(due) < AT_ONCE:
                return ended

    async def _try(self, due: DueReport) -> bool:
        try:
            return await self._one(due)
        except Exception as error:  # the others go out
            words = error.public if isinstance(error, MailError) else repr(error)
            log.warning("a TLS report waits", domain=due.domain, day=str(due.day), error=words)
            async with self._store.worker() as db:
                if due.attempt >= ATTEMPTS:
                    await tls_reports.end(db, due, "failed", words[:500])
                else:
                    await tls_reports.wait(db, due, words[:500])
            return due.attempt >= ATTEMPTS

    async def _one(self, due: DueReport) -> bool:
        uris = await self._wanted(due.domain)
        if not uris:
            async with self._store.worker() as db:
                await tls_reports.end(db, due, "unwanted", f"no TXT record at {tls_rpt.RECORD_PREFIX}{due.domain}")
            return True
        org_id, from_ = await self._from()
        report = await self._made(due, from_)
        if report is None:
            return True
        errors = []
        for uri in uris:
            if uri in report.done:
                continue
            try:
                await self._send_to(due, uri, report, org_id, from_)
            except Refused as error:  # it will not be otherwise in half an hour; other ways may be
                errors.append(error.public)
                async with self._store.worker() as db:
                    await tls_reports.went(db, due, uri, f"refused: {error.public}"[:300])
        async with self._store.worker() as db:
            went = await tls_reports.stored(db, due)
            nowhere = went is not None and all(str(what).startswith("refused") for what in went["done"].values())
            await tls_reports.end(db, due, "failed" if nowhere else "sent", "; ".join(errors)[:500] or None)
        return True

    async def _wanted(self, domain: str) -> tuple[str, ...]:
        try:
            return tls_rpt.read_record((await self._resolver.txt(tls_rpt.RECORD_PREFIX + domain)).values)
        except NoSuchDomain:
            return ()

    async def _from(self) -> tuple[UUID, Address]:
        """The organization that operates the installation, and its address. Raises Refused: there is none yet."""
        async with self._store.worker() as db:
            org_id = await organizations.first(db)
        if org_id is None:
            raise Refused("There is no organization yet.")
        if self._sender.from_:
            return org_id, parse_address(self._sender.from_)
        async with self._store.tenant(org_id) as db:
            domain, _ = await webhooks.audience(db, org_id)
        if domain is None:
            raise Refused("The first organization has no verified domain to send TLS reports from.")
        return org_id, parse_address(f"tls-reports@{domain}")

    async def _made(self, due: DueReport, from_: Address) -> _Made | None:
        """Made now, or as it was made before. None: somebody else has ended it."""
        if due.report_id is None:
            async with self._store.worker() as db:
                rows = await tls_reports.counted(db, due.day, due.domain)
            report_id = f"{due.day}.{uuid7().hex}@{from_.domain}"
            report = tls_report.compose(
                [Count(row["policy"], row["failure"], row["sessions"]) for row in rows],
                day=due.day,
                organization=self._sender.organization or from_.domain,
                contact=str(from_),
                report_id=report_id,
            )
            async with self._store.worker() as db:
                await tls_reports.made(db, due, report_id, report)
        async with self._store.worker() as db:
            row = await tls_reports.stored(db, due)
        return None if row is None else _Made(row["report_id"], row["report"], frozenset(row["done"]))

    async def _send_to(self, due: DueReport, uri: str, made: _Made, org_id: UUID, from_: Address) -> None:
        packed = tls_report.packed(made.report)
        address = tls_rpt.mail_address(uri)
        if address is None:
            await self._post(due, uri, packed)
            return
        to = parse_address(address)
        if to.smtputf8:
            raise Refused("A report is sent to ASCII addresses only.")
        id_ = uuid7()
        letter = Letter(
            from_=str(from_),
            to=str(to),
            submitter=from_.domain,
            domain=due.domain,
            day=due.day,
            report_id=made.report_id,
            message_id=f"<{id_}@{from_.domain}>",
            at=datetime.now(UTC),
        )
        email = NewEmail(
            from_=str(from_),
            domain=from_.domain,
            to=[str(to)],
            recipients=[to],
            subject=f"Report Domain: {due.domain} Submitter: {from_.domain} Report-ID: <{made.report_id}>",
            raw=tls_report.as_mail(letter, packed),
            message_id=letter.message_id,
        )
        ready = await self._submits.prepare(org_id, [email])
        async with self._store.worker() as db:
            if not await tls_reports.went(db, due, uri, f"mail {ready[0].id}"):
                return
            rung = await self._submits.submit_in(db, ready)
        self._submits.ring(rung)
        log.info("a TLS report was sent", domain=due.domain, day=str(due.day), email_id=str(ready[0].id))

    async def _post(self, due: DueReport, uri: str, packed: bytes) -> None:
        """RFC 8460 §5.4. Raises Refused for what will not change, Unavailable for what may."""
        answer = await self._client.request(
            "POST",
            uri,
            headers={"Content-Type": tls_report.GZIP},
            content=packed,
            deadline=POST_SECONDS,
            max_body=1_000,
        )
        if not 200 <= answer.status < 300:
            error = f"the host answered {answer.status}"
            raise Refused(error) if 400 <= answer.status < 500 and answer.status not in (408, 429) else MailError(error)
        async with self._store.worker() as db:
            await tls_reports.went(db, due, uri, f"posted, {answer.status}")
        log.info("a TLS report was posted", domain=due.domain, day=str(due.day), status=answer.status)


@dataclass(frozen=True, slots=True)
class _Made:
    report_id: str
    report: dict[str, Any]
    done: Collection[str]


# ---- taking in -------------------------------------------------------------------------------------------------------


async def receive(
    store: Store, org_id: UUID, domain_id: UUID, report: Report, *, door: str, source: str
) -> UUID | None:
    """Stores a report about a domain of ours; on disk when it returns. None: it came before.

    `door`: https or mail; `source`: address of who sent it. Raises NotFound (no such domain), Invalid (it is about other
    domains), Exceeded (more than MAX_A_DAY).
    """
    id_ = uuid7()
    async with store.tenant(org_id) as db:
        name = await tls_reports.domain_name(db, domain_id)
        if name is None:
            raise NotFound("No such domain.")
        if name not in _domains(report):
            raise Invalid(f"The report is not about {name}.")
        if (
            await tls_reports.count_since(db, domain_id, lower_bound(datetime.now(UTC) - timedelta(days=1)))
            >= MAX_A_DAY
        ):
            raise Exceeded("Too many reports about this domain today.", name="rate_limit_exceeded", retry_after=3600)
        try:
            new = await tls_reports.receive(
                db,
                Received(
                    *(
                        id_,
                        org_id,
                        domain_id,
                        door,
                        source[:320],
                        report.organization,
                        report.report_id,
                        report.begins_at,
                    ),
                    *(report.ends_at, report.successful, report.failed, report.content),
                ),
            )
        except asyncpg.ForeignKeyViolationError:
            raise NotFound("No such domain.") from None
    return id_ if new else None


def _domains(report: Report) -> set[str]:
    """That it is about, in normal form: one sender may tell of several."""
    found = set()
    for each in report.domains:
        try:
            found.add(normalize_domain(each))
        except Invalid:
            continue
    return found


async def receive_mail(store: Store, org_id: UUID, raw: bytes, *, source: str) -> list[tuple[str, str]]:
    """The report that a mail to an organization carries, stored for each of its domains that it is about.

    What was decided and why, in pairs; empty when it carries none. Raises Unavailable: the mail may be read again, and a report
    that came twice is one.
    """
    if len(raw) > MAX_MAIL:
        return []
    try:
        report = await asyncio.to_thread(lambda: tls_report.in_mail(Message(raw)))
    except BrokenReport as error:
        return [("no TLS report", f"{str(error).capitalize()}.")]
    if report is None:
        return []
    async with store.tenant(org_id) as db:
        own = await tls_reports.domain_ids(db, _domains(report))
    if not own:
        return [("no TLS report", "It is about none of the organization's domains.")]
    told = []
    for name, domain_id in own.items():
        try:
            new = await receive(store, org_id, domain_id, report, door="mail", source=source)
        except (Refused, Exceeded) as error:
            told.append(("TLS report refused", error.public))
        else:
            told.append(
                ("TLS report stored", f"It is about {name}." if new else f"The one about {name} was here already.")
            )
    return told


# ---- where reports about our domains come in -------------------------------------------------------------------------

INTAKE = "/v1/tls/intake/"
"""Behind the public URL, then a token: the https URI of a domain's TXT record."""
_MAC = 10
_TOKEN = re.compile(r"[A-Za-z0-9_-]{56}\Z")  # 16 + 16 + 10 octets


def intake_token(key: bytes, org_id: UUID, domain_id: UUID) -> str:
    """Says which domain, so that no stranger fills the table of another: base64url of organization, domain, HMAC."""
    ids = org_id.bytes + domain_id.bytes
    return base64.urlsafe_b64encode(ids + hmac.digest(key, b"tls-intake\0" + ids, "sha256")[:_MAC]).decode()


def read_intake(keys: Sequence[bytes], token: str) -> tuple[UUID, UUID] | None:
    """Organization and domain; None: not ours. `keys`: the one in use, then older ones."""
    if not _TOKEN.match(token):
        return None
    octets = base64.urlsafe_b64decode(token)
    ids, mac = octets[:32], octets[32:]
    if any(hmac.compare_digest(hmac.digest(key, b"tls-intake\0" + ids, "sha256")[:_MAC], mac) for key in keys):
        return UUID(bytes=ids[:16]), UUID(bytes=ids[16:])
    return None
