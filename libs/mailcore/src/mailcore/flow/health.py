"""Whether this installation's mail will be taken: what receivers look at, looked at by ourselves, with one line of advice each.

1. `scene`    what is to be looked at: how mail leaves, from which addresses, for which domains
2. `examine`  each check alone, none of them longer than SECONDS; what nobody could tell is `unknown`, never `ok`
3. `look`     hourly in outbound, by request, and in `postroom doctor`: examines, and keeps the findings for everybody to read

Checks, in the order in which they should be mended:

source       a machine that sends has the address of a pool
port-out     a server of the world answers on port 25 (or our smart host on its own), from each address that this machine has
ptr          the address has a name, and the name leads back to the address (RFC 1912 §2.1)
ehlo         the name we greet with leads to the address (RFC 5321 §4.1.1.1)
spf          the record that we tell domains to publish passes mail from the address, and so does the return path's (RFC 7208)
dkim         the domain's keys are published as we sign with them (RFC 6376 §3.6.1)
dmarc        the domain has a policy, and our mail is aligned with it (RFC 9989)
blocklist    the address stands on none of the lists, nor does the domain
port-in      our MX answers on its port
certificate  of our MX, of the API, of the hosts that links lead to and of those that serve MTA-STS policies of our domains: for its
             name, not expired, not soon
scanner      each that is set answers (flow.health_scanners), also where all mail is caught
clock        this machine and the database agree
queue        what is due leaves
refusal      no site has said lately that our address or domain is on a list, or has a bad name there

Of addresses all are looked at from which mail leaves: those of each pool, and that of mail which no pool carries.

Read-only: no mail is sent, and nothing but the findings is written.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from mailcore.dns.mta_sts import PREFIX
from mailcore.dns.required import Published
from mailcore.dns.resolver import Resolver
from mailcore.dsn.classify import classify
from mailcore.dsn.rules import Category
from mailcore.flow import health_checks as checks
from mailcore.flow import health_hosts as hosts
from mailcore.flow import health_scanners
from mailcore.flow.addresses import Source, addresses
from mailcore.flow.health_checks import OK, UNKNOWN, WRONG, Scene
from mailcore.kit.errors import MailError, Refused
from mailcore.kit.log import logger
from mailcore.store import bulk, domains, health
from mailcore.store.due import due_lanes
from mailcore.store.health import Finding
from mailcore.store.session import Store

log = logger(__name__)

AT_ONCE = 10
MOST_DOMAINS = 50
"""Sending domains that are looked at; flow.verify looks at each of the others daily."""
MOST_BULK = 500
"""Beside them in one look, of those that send in bulk or nearly: where they are more, those that were looked at longest ago."""
CLOCK_SECONDS = 5.0
QUEUE_SECONDS = 300.0
NEVER = datetime.min.replace(tzinfo=UTC)
REFUSAL_HOURS = 24
_OURS = (Category.BLOCK, Category.DOMAIN)
MOST_REFUSALS = 20


async def scene(settings: Any, published: Published, store: Store) -> Scene:
    """`settings`: of a service whose `outbound` group says how mail leaves. Raises Unavailable."""
    own = settings.outbound
    ehlo = own.ehlo_name or socket.getfqdn()
    async with store.worker() as db:
        rows = {row["id"]: row for row in await domains.sending(db, MOST_DOMAINS)}
        of_bulk = [row async for row in domains.sending_below(db, await bulk.senders(db)) if row["id"] not in rows]
        if len(of_bulk) > MOST_BULK:
            looked = {each["subject"]: each["at"] for each in await health.findings(db) if each["check"] == "dmarc"}
            of_bulk.sort(key=lambda row: looked.get(row["name"], NEVER))
        rows.update({row["id"]: row for row in of_bulk[:MOST_BULK]})
        leaves_from = await addresses(db, own.source_ip, ehlo)
    http = getattr(settings, "http", None)
    return Scene(
        own.route,
        leaves_from.sources,
        published,
        own.mx_port,
        (own.smarthost_host, own.smarthost_port) if own.smarthost_host else None,
        tuple(settings.health.blocklists),
        settings.health.probe_domain,
        http.public_url if http is not None else "",
        tuple(rows.values()),
        leaves_from.pools,
        settings.scanners,
        tuple(settings.health.domain_blocklists),
        tuple(settings.network.allow.mx),
        later=frozenset(subject for row in of_bulk[MOST_BULK:] for subject in hosts.subjects(row)),
    )


def now() -> datetime:
    """By the clock of this machine."""
    return datetime.now(UTC)


async def look(store: Store, resolver: Resolver, what: Scene) -> list[Finding]:
    """Examines and keeps what was found, beside what is known of domains whose turn it is not. `resolver` without a cache. Raises
    Unavailable."""
    found = await examine(what, resolver) + await examine_store(store, now)
    async with store.worker() as db:
        await health.replace(db, found, now(), what.later)
    return found


async def examine(what: Scene, resolver: Resolver) -> list[Finding]:
    """All that is asked of the network. Raises nothing of its own."""
    scanners, sending = await asyncio.gather(
        health_scanners.examine(what.scanners, resolver), _examine_sending(what, resolver)
    )
    return sending + scanners


async def _examine_sending(what: Scene, resolver: Resolver) -> list[Finding]:
    if what.route == "catch":
        text = "This installation catches all mail: none leaves it, and nobody looks at its addresses."
        return [Finding("route", "catch", OK, text)]
    sources = await checks.addresses(what, resolver) if what.route == "mx" else ()
    work: list[Awaitable[Finding]] = [_one("port-out", "", checks.port_out(what, resolver, sources))]
    real = [source for source in sources if isinstance(source, Source)]
    pooled = [source for source in real if source.pool]
    for source in filter(checks.is_here, pooled):
        work.append(_one("port-out", source.ip, checks.port_out(what, resolver, sources, source)))
    for source in real:
        work.append(_one("ptr", source.ip, checks.ptr(source, resolver)))
        work.append(_one("ehlo", source.ip, checks.ehlo(source, resolver)))
    work += [_one("spf", source.ip, checks.spf_shown(what.published, source, resolver)) for source in real]
    for row in what.domains:
        carriers = what.carriers(row["name"], real)
        work += [_one("spf", f"{row['name']} {source.ip}", checks.spf(row, source, resolver)) for source in carriers]
        work.append(_one("dkim", row["name"], checks.dkim(row, what.published, resolver)))
        work.append(_one("dmarc", row["name"], checks.dmarc(row, resolver)))
        work += [
            _one("blocklist", f"{row['name']} {zone}", checks.domain_listed(row, zone, resolver))
            for zone in what.domain_blocklists
        ]
        work += [
            _one("certificate", host, hosts.link_certificate(host, what, resolver)) for host in hosts.link_hosts(row)
        ]
        if row["receiving"]:
            work.append(_one("certificate", PREFIX + row["name"], hosts.policy_host(row, what, resolver)))
    for source in real:
        work += [
            _one("blocklist", f"{source.ip} {zone}", checks.listed(source, zone, resolver)) for zone in what.blocklists
        ]
    work.append(_one("port-in", what.published.mx_host, checks.port_in(what, resolver)))
    work.append(_one("certificate", what.published.mx_host, checks.mx_certificate(what, resolver)))
    if what.public_url.startswith("https:"):
        work.append(
            _one("certificate", urlsplit(what.public_url).hostname or "", checks.url_certificate(what, resolver))
        )
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(one: Awaitable[Finding]) -> Finding:
        async with turns:
            return await one

    found = await asyncio.gather(*map(in_turn, work))
    unknown = [each for each in sources if isinstance(each, Finding)]
    return unknown + [Finding("source", source.ip, *checks.has(source)) for source in pooled] + found


async def examine_store(store: Store, clock: Callable[[], datetime]) -> list[Finding]:
    """What the database knows. Raises Unavailable."""
    return [await _clock(store, clock), await _queue(store), *await _refusals(store)]


async def _one(check: str, subject: str, work: Awaitable[tuple[str, str, str]]) -> Finding:
    try:
        async with asyncio.timeout(checks.SECONDS):
            status, text, advice = await work
    except TimeoutError:
        status, text, advice = UNKNOWN, f"No answer within {checks.SECONDS:.0f} s.", ""
    except Refused as error:
        status, text, advice = WRONG, error.public, ""
    except MailError as error:
        status, text, advice = UNKNOWN, error.public, ""
    except Exception as error:  # of one check: the others are findings all the same
        log.error("a health check failed", check=check, subject=subject, exc_info=error)
        status, text = UNKNOWN, f"This check failed here ({type(error).__name__}), so that nothing is known."
        advice = "Read the log of who looked, and report it; the next look tries it again."
    return Finding(check, subject, status, text, advice)


# ---- what the database knows -----------------------------------------------------------------------------------------


async def _clock(store: Store, clock: Callable[[], datetime]) -> Finding:
    async with store.worker() as db:
        before = clock()
        theirs: datetime = await db.fetchval("SELECT clock_timestamp()")
        after = clock()
    off = (before - theirs).total_seconds() if before > theirs else (theirs - after).total_seconds()
    if off > CLOCK_SECONDS:
        text = f"The clocks of this machine and of the database are {off:.0f} s apart: signatures carry a wrong time."
        return Finding("clock", "", WRONG, text, "Run an NTP client (chrony, systemd-timesyncd) on both.")
    return Finding("clock", "", OK, "This machine and the database agree about the time.")


async def _queue(store: Store) -> Finding:
    async with store.worker() as db:
        lanes = await due_lanes(db)
        seconds = (await db.fetchval("SELECT now()") - lanes[0].due_at).total_seconds() if lanes else 0.0
    if seconds > QUEUE_SECONDS:
        text = f"Mail to {lanes[0].domain} has been due for {seconds / 60:.0f} min, and nobody has taken it."
        return Finding(
            "queue", "", WRONG, text, "See that outbound runs and what it logs; start more of it (OUTBOUND__PROCESSES)."
        )
    return Finding("queue", "", OK, f"What is due leaves; the oldest has waited for {seconds:.0f} s.")


async def _refusals(store: Store) -> list[Finding]:
    """The word of the sites themselves: sooner than any list, a receiver says that it has had enough of us."""
    async with store.worker() as db:
        said = await health.replies(db, REFUSAL_HOURS)
    advice = (
        "Read its words for the list or the form that they name; send less there meanwhile, and only to who reads it."
    )
    found: list[Finding] = []
    for key, replies in said.items():
        block = next((each for each in replies if classify(each).category in _OURS), None)
        if block is not None:
            text = f"{key} refuses mail because of our address or domain: `{str(block)[:300]}`"
            found.append(Finding("refusal", key, WRONG, text, advice))
    return found[:MOST_REFUSALS] or [Finding("refusal", "", OK, "No site has refused mail because of us lately.")]
