"""What would happen to a mail, step by step, without sending it. Reads only: the database, the DNS, nothing is written.

    steps = await Tracer(...).trace(Question(org_id, "you@example.com"))

address → suppression → sender → reputation → bulk → quota → lane → way → mx → addresses → tls → site → source

`bulk` only of a broadcast: whether the domain has what large providers ask of bulk senders (flow.gate).

Each step has the facts it was decided by, and a verdict:

ok     the mail goes on
stop   it ends here: refused at submit, or bounced at its first attempt
wait   it stays in the queue for now
unknown  nobody could tell just now

The steps after one that stops are looked at all the same where they can be: who asks may want to know about more than the first.
What the runners know by heart (open connections, answers that the DNS gave a minute ago) is not seen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mailcore.dns.resolver import Resolver
from mailcore.dns.verdict import OWNED
from mailcore.flow.gate import lacking, standing
from mailcore.flow.quota import Quotas
from mailcore.flow.shaping import Shaping
from mailcore.flow.trace_hosts import OK, STOP, UNKNOWN, WAIT, Found, Hosts, Leaving, Step
from mailcore.flow.warmup import pace
from mailcore.flow.ways import RoutesOut
from mailcore.kit.errors import Invalid, MailError, NotFound
from mailcore.kit.settings import Reputation
from mailcore.smtp.address import Address, parse_mailbox
from mailcore.store import domains, explain, reputation, sources
from mailcore.store.session import Store
from mailcore.store.sources import BROADCAST, TRANSACTIONAL, Known, KnownPool, KnownSource, KnownWarmup
from mailcore.store.suppressions import find as find_suppression
from mailcore.store.suppressions import folded


@dataclass(frozen=True, slots=True)
class Question:
    org_id: UUID
    to: str
    from_: str | None = None
    """None: from the first domain of the organization that may send."""
    broadcast: bool = False


class Tracer:
    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        quotas: Quotas,
        leaving: Leaving,
        shaping: Shaping,
        *,
        limits: Reputation,
        link_url: str,
    ) -> None:
        """`link_url`: where unsubscribe links of domains without a tracking subdomain of their own lead."""
        self._store = store
        self._limits = limits
        self._link_url = link_url
        self._shaping = shaping
        self._quotas = quotas
        self._leaving = leaving
        self._hosts = Hosts(store, resolver, leaving)

    async def trace(self, asked: Question) -> list[Step]:
        """Never empty. Raises Unavailable (the database)."""
        first, to = _address(asked.to)
        if to is None:
            return [first]
        found = Found(to.domain)
        steps = [first, await self._suppression(asked, to), *await self._sender(asked, found)]
        if found.sender is not None:
            steps += [await self._bulk(asked, found.sender["id"])] if asked.broadcast else []
            found.route = (await RoutesOut(self._store).of(asked.org_id)).route(found.sender["id"], None)
        steps += [await self._quota(asked), await self._lane(asked, found), await self._way(asked, found)]
        now = datetime.now(UTC)
        async with self._store.worker() as db:
            known = await sources.read(db, now.date())
        steps += await self._hosts.steps(found, known)
        return [*steps, await self._site(asked, found), self._source(asked, found, known, now)]

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

    async def _sender(self, asked: Question, found: Found) -> list[Step]:
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
            steps.append(Step("reputation", STOP, f"{row['name']} is paused. {paused[0]['text']}", facts))
        else:
            steps.append(Step("reputation", OK, f"{row['name']} is not paused."))
        return steps

    async def _bulk(self, asked: Question, domain_id: UUID) -> Step:
        catches = self._leaving.route == "catch"
        try:
            row, met = await standing(self._store, asked.org_id, domain_id, link_url=self._link_url, catches=catches)
        except NotFound:
            return Step("bulk", STOP, "The domain has just been removed.")
        facts = {"gate": self._limits.gate, "requirements": {each.name: each.status for each in met}}
        missing = lacking(met, self._limits)
        if missing:
            what = " ".join(f"{each.name}: {each.text} {each.advice}".strip() for each in missing)
            return Step("bulk", STOP, f"Broadcasts may not be sent from {row['name']} now. {what}", facts)
        if not self._limits.gate:
            return Step(
                "bulk", OK, "What large providers ask of bulk senders is not asked for (REPUTATION__GATE).", facts
            )
        return Step("bulk", OK, f"{row['name']} has what large providers ask of bulk senders.", facts)

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

    async def _lane(self, asked: Question, found: Found) -> Step:
        class_, domain = BROADCAST if asked.broadcast else TRANSACTIONAL, found.domain
        kind = "broadcast" if asked.broadcast else "transactional"
        async with self._store.tenant(asked.org_id) as db:
            row = await explain.lane(db, domain, class_, found.route)
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
        return Step("lane", OK, f"Waiting in the lane {domain}, {kind}: {most}.", facts)

    async def _way(self, asked: Question, found: Found) -> Step:
        leaving = self._leaving
        if found.domain in leaving.test_domains:
            text = f"{found.domain} is a test domain: its addresses behave as named, and nothing is sent."
            found.simulated = True
            return Step("way", OK, text, {"route": "test"})
        if found.route:
            async with self._store.worker() as db:
                ways = await explain.ways(db, found.route, asked.org_id, found.domain)
            free = next((way for way in ways if way["enabled"] and not (way["resting"] or way["held"])), None)
            facts = {"route": "ways", "ways": [{name: way[name] for name in way if name != "site_id"} for way in ways]}
            if free is None:
                return Step(
                    "way", WAIT, "None of the route's ways takes mail now: it waits for the first that does.", facts
                )
            if free["kind"] is not None:
                found.way_site = free["site_id"]
                text = f"By `{free['name']}`, way {free['place']} of {len(ways)} of its route."
                return Step("way", OK, text, facts)
        if leaving.route == "mx":
            found.by_mx = True
            return Step("way", OK, "To the recipient's own mail servers.", {"route": "mx", "port": leaving.mx_port})
        if leaving.host is not None:
            found.site_key = f"{leaving.route}:{leaving.host.replace('[', '').replace(']', '')}"
        what = {"catch": "the catcher: no mail leaves", "smarthost": "a smart host"}.get(leaving.route, leaving.route)
        return Step("way", OK, f"To {what} ({leaving.host}).", {"route": leaving.route, "host": leaving.host})

    # ---- the site ---------------------------------------------------------------------------------------------------

    async def _site(self, asked: Question, found: Found) -> Step:
        async with self._store.worker() as db:
            row = await explain.site(db, found.domain, found.way_site, found.site_key)
            holds = await explain.holds(db, asked.org_id, None if row is None else row["id"])
        key = found.site_key if row is None else row["key"]
        if key is not None:
            found.places = (key, self._shaping.provider(key) or "")
        facts: dict[str, Any] = {**(row or {}), "holds": [dict(hold) for hold in holds]}
        if row is not None:
            facts["id"] = str(row["id"])  # as GET /v1/sites has it
        if holds:
            words = explain.held_words(holds[0]["reason"], holds[0]["until"])
            return Step("site", WAIT, f"Mail is {words}", facts)
        if row is None:
            return Step(
                "site", OK, f"Nothing has been sent to {found.domain} yet: its site becomes known with the first mail."
            )
        shape = self._shaping.shape(
            row["key"],
            connections=row["max_connections"],
            mails_per_connection=self._leaving.mails_per_connection,
            limits=row["limits"],
        )
        most = shape.connections
        facts["limits"] = {
            "provider": shape.provider,
            "connections": most,
            "mails_per_connection": shape.mails_per_connection,
            "rates": [{"mails": mails, "seconds": span} for mails, span in shape.rates],
        }
        until = row["suspended_until"]
        if until is not None:
            words = explain.rest_words(until, row["failures"], row["last_reply"])
            return Step("site", WAIT, f"The site {row['key']} {words}", facts)
        slowed = f" It is slowed to half of that until {row['slow_until']}." if row["slow_until"] else ""
        return Step("site", OK, f"The site {row['key']} takes mail, over {most} connections at most.{slowed}", facts)

    def _source(self, asked: Question, found: Found, known: Known, now: datetime) -> Step:
        own = self._leaving
        if found.simulated:
            return Step("source", OK, "Nothing is sent.")
        part = pace(now) if asked.broadcast else 1.0
        domain_id = None if found.sender is None else found.sender["id"]
        facts: dict[str, Any] = {}
        of_domain = next((each for id_, each in known.domains if id_ == domain_id), None)
        if of_domain is not None:
            facts["domain_warmup"] = _warmup(of_domain, part)
            if not facts["domain_warmup"]["room"]:
                # whichever way it takes, and no other address helps
                why = "is paused" if of_domain.state == "paused" else "has used up what it may send by now"
                return Step("source", WAIT, f"The warm-up of {found.sender['name']} {why}: mail waits.", facts)
        if found.way_site is not None:
            return Step("source", OK, "From wherever the way's own account sends.", facts)
        pool = _pool(known, domain_id, BROADCAST if asked.broadcast else TRANSACTIONAL)
        if pool is None:
            where = own.source_ip or "whichever address the machine takes"
            facts |= {"pool": None, "ip": own.source_ip, "ehlo": own.ehlo or None}
            return Step("source", OK, f"From {where}, greeting as {own.ehlo or 'the machine is called'}.", facts)
        barred = {bar.source_id for bar in known.bars if bar.place in found.places}
        shown = [_shown(source, source.id in barred, part) for source in pool.sources]
        facts |= {"pool": pool.name, "sources": shown, "overflow": pool.overflow}
        if any(each["room"] for each in shown):
            return Step("source", OK, f"From an address of the pool {pool.name}.", facts)
        if pool.overflow is not None:
            return Step("source", OK, f"The pool {pool.name} has no room today: by {pool.overflow}.", facts)
        why = "is taken there" if all(each["barred"] for each in shown) else "has room"
        return Step("source", WAIT, f"No address of the pool {pool.name} {why} now: mail waits.", facts)


def _pool(known: Known, domain_id: UUID | None, class_: int) -> KnownPool | None:
    """As outbound chooses: the domain's own, else that of the class; one without sources is not in use yet."""
    pools = [pool for pool in known.pools if pool.sources]
    own = next((pool for pool in pools if (domain_id, class_) in pool.serves), None)
    return own or next((pool for pool in pools if class_ in pool.serves_all), None)


def _shown(source: KnownSource, barred: bool, part: float) -> dict[str, Any]:
    shown = _warmup(source.warmup, part)
    return {
        "ipv4": source.ip4,
        "ipv6": source.ip6,
        "ehlo": source.ehlo,
        "warmup": shown["state"],
        "cap_today": shown["cap_today"],
        "used_today": shown["used_today"],
        "barred": barred,
        "room": shown["room"] and not (barred or source.paused or source.unbound),
    }


def _warmup(warmup: KnownWarmup, part: float) -> dict[str, Any]:
    """`part`: of the day's cap that such mail may have used by now."""
    full = warmup.cap is not None and warmup.leased >= math.ceil(warmup.cap * part)
    return {
        "state": warmup.state,
        "cap_today": warmup.cap,
        "used_today": warmup.leased,
        "room": warmup.state == "warm" or (warmup.state == "warming" and not full),
    }


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
