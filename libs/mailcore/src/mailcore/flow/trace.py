"""What would happen to a mail, step by step, without sending it. Reads only: the database, the DNS, nothing is written.

    steps = await Tracer(...).trace(Question(org_id, "you@example.com"))

address → suppression → sender → reputation → quota → lane → way → mx → addresses → tls → site → source

Each step has the facts it was decided by, and a verdict:

ok     the mail goes on
stop   it ends here: refused at submit, or bounced at its first attempt
wait   it stays in the queue for now
unknown  nobody could tell just now

The steps after one that stops are looked at all the same where they can be: who asks may want to know about more than the first.
What the runners know by heart (open connections, answers that the DNS gave a minute ago) is not seen here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.dns.mta_sts import RECORD_PREFIX, StsPolicy, read_record
from mailcore.dns.mx import addresses_of, next_hops
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.tlsa import tlsa_of, usable
from mailcore.dns.verdict import OWNED
from mailcore.flow.quota import Quotas
from mailcore.kit import addresses
from mailcore.kit.errors import Invalid, MailError, Refused
from mailcore.smtp.address import Address, parse_mailbox
from mailcore.store import domains, explain, mta_sts, reputation
from mailcore.store.mta_sts import Kept
from mailcore.store.session import Store
from mailcore.store.suppressions import find as find_suppression
from mailcore.store.suppressions import folded

OK, STOP, WAIT, UNKNOWN = "ok", "stop", "wait", "unknown"
TRANSACTIONAL, BROADCAST = 0, 1
MOST_HOSTS = 10
"""Whose TLS is looked at."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Question:
    org_id: UUID
    to: str
    from_: str | None = None
    """None: from the first domain of the organization that may send."""
    broadcast: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    step: str
    verdict: str
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leaving:
    """How this installation's mail leaves, of outbound's settings."""

    route: str
    mx_port: int
    host: str | None
    """host:port of the smart host or the catcher, where all goes to one."""
    test_domains: frozenset[str]
    source_ip: str | None
    ehlo: str
    allow: tuple[Network, ...]


@dataclass(slots=True)
class _Found:
    """What later steps go by."""

    domain: str
    sender: Any = None
    """Row of domains."""
    hosts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Mail hosts with the addresses that may be connected to."""
    signed: bool = False
    """The MX answer was validated by DNSSEC."""
    simulated: bool = False


class Tracer:
    def __init__(self, store: Store, resolver: Resolver, quotas: Quotas, leaving: Leaving) -> None:
        self._store = store
        self._resolver = resolver
        self._quotas = quotas
        self._leaving = leaving

    async def trace(self, asked: Question) -> list[Step]:
        """Never empty. Raises Unavailable (the database)."""
        first, to = _address(asked.to)
        if to is None:
            return [first]
        found = _Found(to.domain)
        steps = [first, await self._suppression(asked, to), *await self._sender(asked, found)]
        steps += [await self._quota(asked), await self._lane(asked, to.domain), self._way(found)]
        if self._leaving.route == "mx" and not found.simulated:
            steps += await self._hosts(found)
        steps += [await self._tls(found), await self._site(found), await self._source(asked, found)]
        return steps

    # ---- what submit decides ----------------------------------------------------------------------------------------

    async def _suppression(self, asked: Question, to: Address) -> Step:
        async with self._store.tenant(asked.org_id) as db:
            row = await find_suppression(db, folded(str(to)))
            left = await explain.unsubscribed(db, folded(str(to))) if asked.broadcast else []
        if row is not None:
            facts = {"origin": row["origin"], "since": row["created_at"].isoformat(), "id": str(row["id"])}
            text = f"{to} is on the suppression list ({row['origin']}): it gets nothing, and the event email.suppressed says so."
            return Step("suppression", STOP, text, facts)
        if left:
            text = f"{to} has unsubscribed from this organization's broadcasts."
            return Step("suppression", STOP, text, {"since": left[0]["created_at"].isoformat()})
        return Step("suppression", OK, f"{to} is not on the suppression list.")

    async def _sender(self, asked: Question, found: _Found) -> list[Step]:
        name = None
        if asked.from_ is not None:
            try:
                name = parse_mailbox(asked.from_).address.domain
            except Invalid as error:
                return [Step("sender", STOP, error.public, {"from": asked.from_[:320]})]
        async with self._store.tenant(asked.org_id) as db:
            row = await domains.sender(db, name)
            paused = [] if row is None else await reputation.paused(db, row["id"])
        if row is None:
            text = (
                f"The `{name}` domain is not one of this organization's: add and verify it."
                if name
                else "The organization has no domain that may send: add and verify one."
            )
            return [Step("sender", STOP, text, {"domain": name})]
        found.sender = row
        facts = {
            "domain": row["name"],
            "status": row["status"],
            "return_path": f"{row['custom_return_path']}.{row['name']}",
            "dkim_selectors": [key["selector"] for key in row["dkim"]],
        }
        if not row["sending"] or row["status"] not in OWNED or row["lacking"] == "sending":
            text = f"The `{row['name']}` domain may not send: its status is {row['status']}."
            return [Step("sender", STOP, f"{text} Publish its records and verify it.", facts)]
        steps = [Step("sender", OK, f"Sent from {row['name']}, signed by its keys.", facts)]
        if paused:
            facts = {"alarm_id": str(paused[0]["id"]), "kind": paused[0]["kind"]}
            steps.append(Step("reputation", STOP, paused[0]["text"], facts))
        else:
            steps.append(Step("reputation", OK, f"{row['name']} is not paused."))
        return steps

    async def _quota(self, asked: Question) -> Step:
        standing = await self._quotas.exact(asked.org_id)
        if standing is None:
            return Step("quota", STOP, "There is no such organization.")
        facts = {
            "daily": standing.daily,
            "daily_limit": standing.daily_limit,
            "monthly": standing.monthly,
            "monthly_limit": standing.monthly_limit,
        }
        refusal = standing.refusal(1)
        if refusal is not None:
            return Step("quota", STOP, refusal.public, facts)
        return Step("quota", OK, "There is room for one more recipient.", facts)

    # ---- what waits before it ---------------------------------------------------------------------------------------

    async def _lane(self, asked: Question, domain: str) -> Step:
        class_ = BROADCAST if asked.broadcast else TRANSACTIONAL
        kind = "broadcast" if asked.broadcast else "transactional"
        async with self._store.tenant(asked.org_id) as db:
            row = await explain.lane(db, domain, class_)
        if row is None:
            return Step(
                "lane", OK, f"The first {kind} mail to {domain} makes its lane.", {"domain": domain, "class": kind}
            )
        facts = {
            "domain": domain,
            "class": kind,
            "waiting": row["waiting"],
            "due_since": None if row["due_at"] is None else row["due_at"].isoformat(),
        }
        most = f"{explain.MOST_COUNTED} or more" if row["waiting"] >= explain.MOST_COUNTED else str(row["waiting"])
        return Step("lane", OK, f"{most} mails wait in the lane {domain}, {kind}.", facts)

    def _way(self, found: _Found) -> Step:
        leaving = self._leaving
        if found.domain in leaving.test_domains:
            found.simulated = True
            text = f"{found.domain} is a test domain: its addresses behave as named, and nothing is sent."
            return Step("way", OK, text, {"route": "test"})
        if leaving.route == "mx":
            return Step("way", OK, "To the recipient's own mail servers.", {"route": "mx", "port": leaving.mx_port})
        what = {"catch": "the catcher: no mail leaves", "smarthost": "a smart host"}.get(leaving.route, leaving.route)
        return Step("way", OK, f"To {what} ({leaving.host}).", {"route": leaving.route, "host": leaving.host})

    # ---- where to ---------------------------------------------------------------------------------------------------

    async def _hosts(self, found: _Found) -> list[Step]:
        domain = found.domain
        try:
            mx = await next_hops(domain, self._resolver)
        except Refused as error:
            facts = {"code": error.code, "enhanced_code": error.enhanced}
            return [Step("mx", STOP, f"{error.public} Its mail bounces at the first attempt.", facts)]
        except TemporaryDNSError as error:
            return [Step("mx", WAIT, f"{error.public} Mail waits, and is tried again by the schedule.")]
        hops, found.signed = mx.values, mx.secure
        implicit = len(hops) == 1 and hops[0].host == domain and hops[0].preference == 0
        facts = {"hosts": [{"host": hop.host, "preference": hop.preference} for hop in hops]}
        text = f"{domain} has no MX: it is its own mail host." if implicit else f"{len(hops)} mail hosts, best first."
        return [Step("mx", OK, text, facts), await self._addresses(found, [hop.host for hop in hops])]

    async def _addresses(self, found: _Found, hosts: Sequence[str]) -> Step:
        shown: list[dict[str, Any]] = []
        failed = 0
        for host in hosts:
            try:
                ips = (await addresses_of(host, self._resolver)).values
            except NoSuchDomain:
                shown.append({"host": host, "error": "does not exist"})
                continue
            except TemporaryDNSError as error:
                failed += 1
                shown.append({"host": host, "error": error.public})
                continue
            allowed = []
            for ip in ips:
                why = addresses.refusal(addresses.parse_address(ip), self._leaving.allow)
                shown.append(
                    {"host": host, "ip": ip, "allowed": why is None, **({} if why is None else {"reason": why})}
                )
                if why is None:
                    allowed.append(ip)
            if allowed:
                found.hosts.append((host, tuple(allowed)))
        facts = {"addresses": shown}
        if found.hosts:
            return Step(
                "addresses", OK, f"{sum(len(ips) for _, ips in found.hosts)} addresses may be connected to.", facts
            )
        if failed:
            return Step("addresses", WAIT, "The DNS does not tell an address just now: mail waits.", facts)
        if any("ip" in each for each in shown):
            text = "All addresses are private ones. POSTROOM_NETWORK__ALLOW__MX opens networks. Its mail bounces."
            return Step("addresses", STOP, text, facts)
        return Step("addresses", STOP, "The mail hosts have no addresses. Its mail bounces.", facts)

    async def _tls(self, found: _Found) -> Step:
        if found.simulated:
            return Step("tls", OK, "Nothing is sent.", {"policy": "none"})
        if self._leaving.route != "mx":
            return Step("tls", OK, "As the operator has set it for this host.", {"policy": "by route"})
        kept, announced = await self._sts(found.domain)
        hosts = [
            {"host": host, "policy": await self._tls_of(host, found, kept)} for host, _ in found.hosts[:MOST_HOSTS]
        ]
        own = "required" if found.sender is not None and found.sender["tls"] == "enforced" else "opportunistic"
        facts: dict[str, Any] = {"of_sender": own, "hosts": hosts, "mta_sts": None}
        if kept is not None or announced is not None:
            mode = kept.mode if kept is not None and kept.alive else None
            facts["mta_sts"] = {"announced": announced, "mode": mode, "failure": kept.failure if kept else None}
        policies = {each["policy"] for each in hosts}
        if hosts and policies <= {"closed"}:
            why = "The recipient's side asks for TLS that none of its hosts can have by now: mail waits."
            return Step("tls", WAIT, why, facts)
        if own == "required":
            text = f"{found.sender['name']} asks for TLS with a verified certificate: mail waits where a host has none."
        elif policies & {"dane", "dane-unusable", "mta-sts"}:
            text = (
                "The recipient's side asks for TLS (DANE, MTA-STS): mail waits where a handshake does not come to that."
            )
        else:
            text = "TLS where the host offers it; clear text where it does not (RFC 7435)."
            if announced is not None and kept is None:
                text += " An MTA-STS policy is announced, and is fetched with the first mail."
        return Step("tls", OK, text, facts)

    async def _sts(self, domain: str) -> tuple[Kept | None, str | None]:
        """The policy that was fetched last, and the id that is announced now."""
        async with self._store.worker() as db:
            kept = await mta_sts.kept(db, domain)
        try:
            found = await self._resolver.txt(RECORD_PREFIX + domain)
        except (NoSuchDomain, TemporaryDNSError):
            return kept, None
        return kept, read_record(found.values)

    async def _tls_of(self, host: str, found: _Found, kept: Kept | None) -> str:
        """As outbound decides (RFC 7672, RFC 8461): dane, dane-unusable, mta-sts, closed, opportunistic."""
        if found.signed:
            try:
                tlsa = await tlsa_of(host, self._leaving.mx_port, self._resolver)
            except TemporaryDNSError:
                return "closed"
            if tlsa is not None:
                return "dane" if usable(tlsa.records) else "dane-unusable"
        if kept is None or not kept.alive or kept.mode != "enforce":
            return "opportunistic"
        return "mta-sts" if StsPolicy("enforce", kept.mx, kept.max_age).covers(host) else "closed"

    # ---- the site ---------------------------------------------------------------------------------------------------

    async def _site(self, found: _Found) -> Step:
        async with self._store.worker() as db:
            row = await explain.site(db, found.domain)
        if row is None:
            return Step(
                "site", OK, f"Nothing has been sent to {found.domain} yet: its site becomes known with the first mail."
            )
        facts = dict(row)
        until = row["suspended_until"]
        if until is not None and datetime.fromisoformat(until) > datetime.now(UTC):
            words = f" Its last words: {row['last_reply']}" if row["last_reply"] else ""
            text = f"The site {row['key']} rests until {until}, after {row['failures']} failures in a row.{words}"
            return Step("site", WAIT, text, facts)
        return Step(
            "site", OK, f"The site {row['key']} takes mail, over {row['max_connections']} connections at most.", facts
        )

    async def _source(self, asked: Question, found: _Found) -> Step:
        own = self._leaving
        if found.simulated:
            return Step("source", OK, "Nothing is sent.")
        where = own.source_ip or "whichever address the machine takes"
        facts = {"ip": own.source_ip, "ehlo": own.ehlo or None}
        return Step("source", OK, f"From {where}, greeting as {own.ehlo or 'the machine is called'}.", facts)


def _address(text: str) -> tuple[Step, Address | None]:
    try:
        address = parse_mailbox(text).address
    except MailError as error:
        return Step("address", STOP, error.public, {"to": text[:320]}), None
    facts = {"address": str(address), "domain": address.domain, "smtputf8": address.smtputf8}
    if address.smtputf8:
        text = "The local part is not ASCII: only servers with SMTPUTF8 (RFC 6531) take it."
        return Step("address", OK, text, facts), address
    return Step("address", OK, "A well-formed address.", facts), address


def verdict(steps: Sequence[Step]) -> str:
    """Of the whole: the first stop; otherwise a wait; otherwise what is unknown; otherwise ok."""
    verdicts = {step.verdict for step in steps}
    return next((each for each in (STOP, WAIT, UNKNOWN) if each in verdicts), OK)
