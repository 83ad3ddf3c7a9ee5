"""Whether this installation's mail will be taken: what receivers look at, looked at by ourselves, with one line of advice each.

1. `scene`    what is to be looked at: how mail leaves, from which addresses, for which domains
2. `examine`  each check alone, none of them longer than SECONDS; what nobody could tell is `unknown`, never `ok`
3. `look`     hourly in outbound, by request, and in `postroom doctor`: examines, and keeps the findings for everybody to read

Checks, in the order in which they should be mended:

port-out     a server of the world answers on port 25 (or our smart host on its own)
ptr          the address has a name, and the name leads back to the address (RFC 1912 §2.1)
ehlo         the name we greet with leads to the address (RFC 5321 §4.1.1.1)
spf          the return path's SPF record passes mail from the address (RFC 7208)
dkim         the domain's keys are published as we sign with them (RFC 6376 §3.6.1)
dmarc        the domain has a policy, and our mail is aligned with it (RFC 9989)
blocklist    the address stands on none of the lists
port-in      our MX answers on its port
certificate  of our MX and of the API: for its name, not expired, not soon
clock        this machine and the database agree
queue        what is due leaves

Read-only: no mail is sent, and nothing but the findings is written.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from mailcore.dns import blocklist
from mailcore.dns.mx import addresses_of, next_hops
from mailcore.dns.required import Published, required_records
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.verdict import look_up
from mailcore.flow.verify import look_around
from mailcore.kit.errors import MailError, Refused
from mailcore.mailauth.spf.check import Result, check_host
from mailcore.store import deliveries, domains, health
from mailcore.store.health import Finding
from mailcore.store.session import Store
from mailcore.transport.probe import Certificate, Probe, probe, probe_tls

SECONDS = 20.0
AT_ONCE = 10
MOST_DOMAINS = 50
"""Sending domains that are looked at; flow.verify looks at each of the others daily."""
CERTIFICATE_DAYS = 14
CLOCK_SECONDS = 5.0
QUEUE_SECONDS = 300.0

OK, WRONG, UNKNOWN = "ok", "wrong", "unknown"


@dataclass(frozen=True, slots=True)
class Source:
    """An address that mail leaves from, and how we greet from it."""

    ip: str
    ehlo: str


@dataclass(frozen=True, slots=True)
class Scene:
    route: str
    """mx, smarthost, provider, catch: only of mx do our own addresses matter to receivers."""
    sources: tuple[Source, ...]
    published: Published
    mx_port: int = 25
    smarthost: tuple[str, int] | None = None
    blocklists: tuple[str, ...] = ()
    probe_domain: str = ""
    public_url: str = ""
    domains: tuple[Mapping[str, Any], ...] = field(default=())
    """Sending domains, columns of `domains` with `dkim`."""


async def scene(settings: Any, published: Published, store: Store) -> Scene:
    """`settings`: of a service whose `outbound` group says how mail leaves. Raises Unavailable."""
    own = settings.outbound
    ehlo = own.ehlo_name or socket.getfqdn()
    async with store.worker() as db:
        rows = await domains.sending(db, MOST_DOMAINS)
        sources = await health.sources(db)
    if not sources:
        sources = [(own.source_ip or "", ehlo)]
    http = getattr(settings, "http", None)
    return Scene(
        own.route,
        tuple(Source(*each) for each in sources),
        published,
        own.mx_port,
        (own.smarthost_host, own.smarthost_port) if own.smarthost_host else None,
        tuple(settings.health.blocklists),
        settings.health.probe_domain,
        http.public_url if http is not None else "",
        tuple(rows),
    )


def now() -> datetime:
    """By the clock of this machine."""
    return datetime.now(UTC)


async def look(store: Store, resolver: Resolver, what: Scene) -> list[Finding]:
    """Examines and keeps what was found. `resolver` without a cache. Raises Unavailable."""
    found = await examine(what, resolver) + await examine_store(store, now)
    async with store.worker() as db:
        await health.replace(db, found, now())
    return found


async def examine(what: Scene, resolver: Resolver) -> list[Finding]:
    """All that is asked of the network. Raises nothing of its own."""
    if what.route == "catch":
        text = "This installation catches all mail: none leaves it, and nobody looks at its addresses."
        return [Finding("route", "catch", OK, text)]
    sources = await _addresses(what, resolver) if what.route == "mx" else ()
    work: list[Awaitable[Finding]] = [_one("port-out", "", _port_out(what, resolver, sources))]
    for source in sources:
        if isinstance(source, Finding):
            continue
        work.append(_one("ptr", source.ip, _ptr(source, resolver)))
        work.append(_one("ehlo", source.ip, _ehlo(source, resolver)))
    real = [source for source in sources if isinstance(source, Source)]
    for row in what.domains:
        work += [_one("spf", f"{row['name']} {source.ip}", _spf(row, source, resolver)) for source in real]
        work.append(_one("dkim", row["name"], _dkim(row, what.published, resolver)))
        work.append(_one("dmarc", row["name"], _dmarc(row, resolver)))
    for source in real:
        work += [_one("blocklist", f"{source.ip} {zone}", _listed(source, zone, resolver)) for zone in what.blocklists]
    work.append(_one("port-in", what.published.mx_host, _port_in(what, resolver)))
    work.append(_one("certificate", what.published.mx_host, _mx_certificate(what, resolver)))
    if what.public_url.startswith("https:"):
        work.append(_one("certificate", urlsplit(what.public_url).hostname or "", _url_certificate(what, resolver)))
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(one: Awaitable[Finding]) -> Finding:
        async with turns:
            return await one

    found = await asyncio.gather(*map(in_turn, work))
    return [source for source in sources if isinstance(source, Finding)] + found


async def examine_store(store: Store, clock: Callable[[], datetime]) -> list[Finding]:
    """What the database knows. Raises Unavailable."""
    return [await _clock(store, clock), await _queue(store)]


async def _one(check: str, subject: str, work: Awaitable[tuple[str, str, str]]) -> Finding:
    try:
        async with asyncio.timeout(SECONDS):
            status, text, advice = await work
    except TimeoutError:
        status, text, advice = UNKNOWN, f"No answer within {SECONDS:.0f} s.", ""
    except Refused as error:
        status, text, advice = WRONG, error.public, ""
    except MailError as error:
        status, text, advice = UNKNOWN, error.public, ""
    return Finding(check, subject, status, text, advice)


# ---- our addresses ---------------------------------------------------------------------------------------------------


async def _addresses(what: Scene, resolver: Resolver) -> list[Source | Finding]:
    """Public ones. Behind NAT, or where none is set, those of the name we greet with: what the world will see."""
    found: list[Source | Finding] = []
    for source in what.sources:
        if source.ip and ipaddress.ip_address(source.ip).is_global:
            found.append(source)
            continue
        if source.ip and ipaddress.ip_address(source.ip).is_loopback:
            found.append(source)  # a laboratory: its name server speaks for these
            continue
        try:
            ips = (await addresses_of(source.ehlo, resolver)).values
        except (Refused, TemporaryDNSError):
            ips = ()
        if ips:
            found += [Source(ip, source.ehlo) for ip in ips]
            continue
        known = (
            f"The address {source.ip} is a private one" if source.ip else "The address that mail leaves from is not set"
        )
        text = f"{known}, and {source.ehlo or 'the name we greet with'} leads to none."
        advice = (
            "Set POSTROOM_OUTBOUND__EHLO_NAME to a name with an A record of the public address that mail leaves from."
        )
        found.append(Finding("ehlo", source.ehlo, WRONG, text, advice))
    return found


async def _ptr(source: Source, resolver: Resolver) -> tuple[str, str, str]:
    try:
        names = (await resolver.ptr(source.ip)).values
    except NoSuchDomain:
        names = ()
    ask = f"Ask whoever gave you {source.ip} for a PTR record that says {source.ehlo}."
    if not names:
        return WRONG, f"{source.ip} has no name (PTR): many receivers refuse its mail.", ask
    for name in names:
        try:
            if source.ip in (await addresses_of(name, resolver)).values:
                return OK, f"{source.ip} is {name}, which leads back to it.", ""
        except Refused:
            continue
    kind = "AAAA" if ":" in source.ip else "A"
    text = f"{source.ip} is {names[0]}, but that name does not lead back to it."
    return WRONG, text, f"Publish {kind} {source.ip} at {names[0]}. Or: {ask}"


async def _ehlo(source: Source, resolver: Resolver) -> tuple[str, str, str]:
    kind = "AAAA" if ":" in source.ip else "A"
    advice = (
        f"Publish {kind} {source.ip} at {source.ehlo}, or set POSTROOM_OUTBOUND__EHLO_NAME to the name of {source.ip}."
    )
    try:
        ips = (await addresses_of(source.ehlo, resolver)).values
    except Refused:
        ips = ()
    if source.ip in ips:
        return OK, f"We greet as {source.ehlo}, which leads to {source.ip}.", ""
    where = f"leads to {', '.join(ips)}" if ips else "does not exist"
    return WRONG, f"We greet as {source.ehlo}, which {where}, not to {source.ip}.", advice


async def _listed(source: Source, zone: str, resolver: Resolver) -> tuple[str, str, str]:
    found = await blocklist.look_up(source.ip, zone, resolver)
    if found.listed is None:
        advice = f"Ask {zone} through a name server of your own (POSTROOM_DNS__NAMESERVERS), or leave it out."
        return UNKNOWN, found.text, f"{advice} POSTROOM_HEALTH__BLOCKLISTS says which lists are asked."
    if found.listed:
        advice = f"Find out what was sent and stop it, then ask {zone} to remove the address."
        return WRONG, f"{source.ip} stands on {zone}: {found.text}", advice
    return OK, f"{source.ip} does not stand on {zone}.", ""


# ---- our domains -----------------------------------------------------------------------------------------------------


async def _spf(row: Mapping[str, Any], source: Source, resolver: Resolver) -> tuple[str, str, str]:
    path = f"{row['custom_return_path']}.{row['name']}"
    found = await check_host(source.ip, path, f"bounce@{path}", resolver, helo=source.ehlo)
    if found.result is Result.PASS:
        return OK, f"{path} passes mail from {source.ip} by `{found.term}`.", ""
    if found.result is Result.TEMPERROR:
        return UNKNOWN, found.term, ""
    mechanism = f"{'ip6' if ':' in source.ip else 'ip4'}:{source.ip}"
    said = {Result.NONE: "has no SPF record", Result.PERMERROR: f"has a broken SPF record ({found.term})"}
    text = f"{path} {said.get(found.result, f'says {found.result} (`{found.term}`)')}: mail from {source.ip} does not pass."
    return (
        WRONG,
        text,
        f"Publish `v=spf1 {mechanism} ~all` as the TXT record of {path}, or cover it by POSTROOM_DOMAINS__SPF.",
    )


async def _dkim(row: Mapping[str, Any], published: Published, resolver: Resolver) -> tuple[str, str, str]:
    keys = [each for each in required_records(row, published) if each.record == "DKIM"]
    there = await asyncio.gather(*(look_up(each, resolver) for each in keys))
    wrong = [each for each, found in zip(keys, there, strict=True) if found is False]
    if wrong:
        text = f"{wrong[0].fqdn} does not hold the key that we sign with: signatures fail."
        return WRONG, text, f"Publish the TXT record {wrong[0].fqdn} as GET /domains/{row['id']} shows it."
    if not keys:
        return WRONG, f"{row['name']} has no DKIM key: its mail waits.", "Delete the domain and add it again."
    if None in there:
        return UNKNOWN, f"The DNS did not answer for the keys of {row['name']}.", ""
    return OK, f"{', '.join(each.fqdn for each in keys)} hold the keys that we sign with.", ""


async def _dmarc(row: Mapping[str, Any], resolver: Resolver) -> tuple[str, str, str]:
    seen = await look_around(row, resolver)
    policy = seen["dmarc"] or seen["dmarc_above"]
    name = row["name"]
    if policy:
        # RFC 9989: d= is the From domain itself and the return path is below it; only `aspf=s` asks for more of SPF
        strict = "aspf=s" in policy.replace(" ", "").lower()
        by = "DKIM" if strict else "DKIM and SPF"
        return OK, f"{name} has a policy ({policy[:200]}); our mail is aligned with it by {by}.", ""
    if seen["dmarc"] is None:
        return UNKNOWN, f"The DNS did not answer for _dmarc.{name}.", ""
    text = f"{name} has no DMARC policy: Gmail, Yahoo and Microsoft refuse its bulk mail."
    return WRONG, text, f"Publish TXT `v=DMARC1; p=none` at _dmarc.{name}."


# ---- ports and certificates ------------------------------------------------------------------------------------------


async def _port_out(what: Scene, resolver: Resolver, sources: Sequence[Source | Finding]) -> tuple[str, str, str]:
    if what.route == "provider":
        return OK, "Mail leaves by providers' APIs: port 25 is not needed.", ""
    if what.route == "smarthost" and what.smarthost is not None:
        host, port = what.smarthost
        ask = f"See that {host} runs and that nothing between blocks port {port}."
    elif what.probe_domain:
        try:
            host, port = (await next_hops(what.probe_domain, resolver)).values[0].host, what.mx_port
        except Refused as error:
            return UNKNOWN, error.public, "Set POSTROOM_HEALTH__PROBE_DOMAIN to a domain that takes mail."
        ask = f"Ask your hoster to open outgoing port {port}, or send through a smart host (POSTROOM_OUTBOUND__ROUTE=smarthost)."
    else:
        return UNKNOWN, "POSTROOM_HEALTH__PROBE_DOMAIN is empty: outgoing port 25 is not tried.", ""
    found = await _probe(host, port, what, resolver, tls=False)
    if found.error:
        return WRONG, f"{host}: {found.error}.", ask
    from_ = ", ".join(source.ip for source in sources if isinstance(source, Source)) or "this machine"
    return OK, f"{host} answers on port {port} ({from_}).", ""


async def _port_in(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    host = what.published.mx_host
    found = await _probe(host, what.mx_port, what, resolver, tls=False)
    if found.error:
        advice = f"See that inbound-smtp runs, that port {what.mx_port} leads to it, and that {host} leads here."
        return WRONG, f"{host}: {found.error}. Bounces and mail to your domains do not arrive.", advice
    return OK, f"{host} answers on port {what.mx_port}: {found.greeting}", ""


async def _mx_certificate(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    host = what.published.mx_host
    found = await _probe(host, what.mx_port, what, resolver, tls=True)
    if found.error:
        return UNKNOWN, f"{host}: {found.error}.", ""
    if not found.starttls:
        advice = "Set POSTROOM_SMTP__TLS_CERT and POSTROOM_SMTP__TLS_KEY."
        return WRONG, f"{host} does not offer STARTTLS: mail to you crosses the network in clear text.", advice
    return _judged(found.certificate, host, "POSTROOM_SMTP__TLS_CERT")


async def _url_certificate(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    parts = urlsplit(what.public_url)
    host, port = parts.hostname or "", parts.port or 443
    ips = (await addresses_of(host, resolver)).values
    if not ips:
        return WRONG, f"{host} has no address.", "Correct POSTROOM_HTTP__PUBLIC_URL, or publish the name."
    found = await probe_tls(ips[0], port, host, seconds=SECONDS / 2)
    if found.error:
        return (
            WRONG,
            f"{host}: {found.error}.",
            f"See that the proxy in front of api runs and that port {port} leads to it.",
        )
    return _judged(found.certificate, host, "the proxy in front of api")


def _judged(certificate: Certificate | None, host: str, where: str) -> tuple[str, str, str]:
    if certificate is None:
        return UNKNOWN, f"{host} shows no certificate that can be read.", ""
    left = certificate.expires_at - now()
    renew = f"Renew it, and put the new one where {where} has it."
    if left < timedelta(0):
        return WRONG, f"The certificate of {host} expired on {certificate.expires_at:%Y-%m-%d}.", renew
    if not certificate.covers(host):
        names = ", ".join(certificate.names[:5]) or "no name"
        return (
            WRONG,
            f"The certificate of {host} is for {names}.",
            f"Get one for {host}, and put it where {where} has it.",
        )
    if left < timedelta(days=CERTIFICATE_DAYS):
        return WRONG, f"The certificate of {host} expires in {left.days} days.", renew
    by = "itself" if certificate.self_signed else certificate.issuer
    return OK, f"The certificate of {host} holds for {left.days} days; signed by {by}.", ""


async def _probe(host: str, port: int, what: Scene, resolver: Resolver, *, tls: bool) -> Probe:
    try:
        ips: Sequence[str] = (str(ipaddress.ip_address(host)),)
    except ValueError:
        try:
            ips = (await addresses_of(host, resolver)).values
        except Refused as error:
            return Probe(error.public.rstrip("."))
    if not ips:
        return Probe(f"{host} has no address")
    helo = what.sources[0].ehlo or "localhost"
    return await probe(ips[0], port, host, helo=helo, seconds=SECONDS / 2, tls=tls)


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
        lanes = await deliveries.due_lanes(db)
        seconds = (await db.fetchval("SELECT now()") - lanes[0].due_at).total_seconds() if lanes else 0.0
    if seconds > QUEUE_SECONDS:
        text = f"Mail to {lanes[0].domain} has been due for {seconds / 60:.0f} min, and nobody has taken it."
        return Finding(
            "queue", "", WRONG, text, "See that outbound runs and what it logs; start more of it (OUTBOUND__PROCESSES)."
        )
    return Finding("queue", "", OK, f"What is due leaves; the oldest has waited for {seconds:.0f} s.")
