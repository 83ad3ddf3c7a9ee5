"""The health checks that ask the network, one function each: what it found, and what to do. flow.health runs them.

Each returns `(status, text, advice)` and raises MailError where the DNS does not answer: that is `unknown`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from mailcore.dns import blocklist
from mailcore.dns.mx import addresses_of, next_hops
from mailcore.dns.required import Published, required_records
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.dns.verdict import look_up
from mailcore.flow.addresses import Addresses, Source
from mailcore.flow.verify import look_around
from mailcore.kit.addresses import Network
from mailcore.kit.errors import Refused
from mailcore.kit.settings import Scanners
from mailcore.mailauth.spf.check import Result, check_host
from mailcore.store.health import Finding
from mailcore.transport.probe import Certificate, Probe, probe, probe_tls

SECONDS = 20.0
"""No check takes longer."""
CERTIFICATE_DAYS = 14
OK, WRONG, UNKNOWN = "ok", "wrong", "unknown"


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
    pools: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """As in flow.addresses."""
    scanners: Scanners = field(default_factory=Scanners)
    domain_blocklists: tuple[str, ...] = ()
    allow: tuple[Network, ...] = ()
    """Private networks in which hosts of tenants' names may be."""
    https_port: int = 443
    """Of such hosts."""
    later: frozenset[str] = frozenset()
    """Names of domains, and of their hosts, that another look is for: what the last one found stays."""

    def carriers(self, domain: str, sources: Sequence[Source]) -> list[Source]:
        """Of these, who mail of the domain may leave from."""
        return Addresses(self.sources, self.pools).of(domain, sources)


# ---- our addresses ---------------------------------------------------------------------------------------------------


async def addresses(what: Scene, resolver: Resolver) -> list[Source | Finding]:
    """Public ones. Behind NAT, or where none is set, those of the name we greet with: what the world will see."""
    found: list[Source | Finding] = []
    for source in what.sources:
        if source.public:
            found.append(source)
            continue
        try:
            ips = (await addresses_of(source.ehlo, resolver)).values
        except (Refused, TemporaryDNSError):
            ips = ()
        if ips:
            found += [replace(source, ip=ip, bound=source.bound or source.ip) for ip in ips]
            continue
        known = (
            f"The address {source} is a private one" if source.ip else "The address that mail leaves from is not set"
        )
        text = f"{known}, and {source.ehlo or 'the name we greet with'} leads to none."
        advice = (
            "Set POSTROOM_OUTBOUND__EHLO_NAME to a name with an A record of the public address that mail leaves from."
        )
        if source.pool:
            advice = (
                "Add the source anew with its public address as `ipv4`, and this one as `local_ipv4` (docs/sources.md)."
            )
        found.append(Finding("ehlo", source.ehlo, WRONG, text, advice))
    return found


def has(source: Source) -> tuple[str, str, str]:
    """Whether a machine that sends has it."""
    bound = source.bound or source.ip
    if source.usable:
        return OK, f"A machine that sends has {bound}, from which {source} is used.", ""
    if source.usable is None:
        return UNKNOWN, f"No machine that sends has tried lately whether it has {bound}.", "See that outbound runs."
    advice = f"Give {bound} to a machine that runs outbound, or change the source (PATCH /v1/sources/:id)."
    return WRONG, f"No machine that sends can use {source}: {source.error or 'it cannot be bound'}.", advice


def is_here(source: Source) -> bool:
    """Whether this machine has it."""
    ip = source.bound or source.ip
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.bind((ip, 0))
    except OSError:
        return False
    return True


async def ptr(source: Source, resolver: Resolver) -> tuple[str, str, str]:
    try:
        names = (await resolver.ptr(source.ip)).values
    except NoSuchDomain:
        names = ()
    ask = f"Ask whoever gave you {source.ip} for a PTR record that says {source.ehlo}."
    if not names:
        return WRONG, f"{source} has no name (PTR): many receivers refuse its mail.", ask
    for name in names:
        try:
            if source.ip in (await addresses_of(name, resolver)).values:
                return OK, f"{source} is {name}, which leads back to it.", ""
        except Refused:
            continue
    kind = "AAAA" if ":" in source.ip else "A"
    text = f"{source} is {names[0]}, but that name does not lead back to it."
    return WRONG, text, f"Publish {kind} {source.ip} at {names[0]}. Or: {ask}"


async def ehlo(source: Source, resolver: Resolver) -> tuple[str, str, str]:
    kind = "AAAA" if ":" in source.ip else "A"
    setting = "`ehlo_name` of the source (PATCH /v1/sources/:id)" if source.pool else "POSTROOM_OUTBOUND__EHLO_NAME"
    advice = f"Publish {kind} {source.ip} at {source.ehlo}, or set {setting} to the name of {source.ip}."
    try:
        ips = (await addresses_of(source.ehlo, resolver)).values
    except Refused:
        ips = ()
    if source.ip in ips:
        return OK, f"We greet as {source.ehlo}, which leads to {source.ip}.", ""
    where = f"leads to {', '.join(ips)}" if ips else "does not exist"
    return WRONG, f"We greet as {source.ehlo}, which {where}, not to {source}.", advice


async def listed(source: Source, zone: str, resolver: Resolver) -> tuple[str, str, str]:
    found = await blocklist.look_up(source.ip, zone, resolver)
    return _standing(found, str(source), zone, "the address", "POSTROOM_HEALTH__BLOCKLISTS")


def _standing(found: blocklist.Listing, shown: str, zone: str, what: str, setting: str) -> tuple[str, str, str]:
    if found.listed is None:
        advice = f"Ask {zone} through a name server of your own (POSTROOM_DNS__NAMESERVERS), or leave it out."
        return UNKNOWN, found.text, f"{advice} {setting} says which lists are asked."
    if found.listed:
        advice = f"Find out what was sent and stop it, then ask {zone} to remove {what}."
        return WRONG, f"{shown} stands on {zone}: {found.text}", advice
    return OK, f"{shown} does not stand on {zone}.", ""


# ---- our domains -----------------------------------------------------------------------------------------------------


async def domain_listed(row: Mapping[str, Any], zone: str, resolver: Resolver) -> tuple[str, str, str]:
    found = await blocklist.look_up_domain(row["name"], zone, resolver)
    return _standing(found, row["name"], zone, "the domain", "POSTROOM_HEALTH__DOMAIN_BLOCKLISTS")


async def spf(row: Mapping[str, Any], source: Source, resolver: Resolver) -> tuple[str, str, str]:
    path = f"{row['custom_return_path']}.{row['name']}"
    found = await check_host(source.ip, path, f"bounce@{path}", resolver, helo=source.ehlo)
    if found.result is Result.PASS:
        return OK, f"{path} passes mail from {source.ip} by `{found.term}`.", ""
    if found.result is Result.TEMPERROR:
        return UNKNOWN, found.term, ""
    mechanism = f"{'ip6' if ':' in source.ip else 'ip4'}:{source.ip}"
    said = {Result.NONE: "has no SPF record", Result.PERMERROR: f"has a broken SPF record ({found.term})"}
    text = (
        f"{path} {said.get(found.result, f'says {found.result} (`{found.term}`)')}: mail from {source} does not pass."
    )
    return (
        WRONG,
        text,
        f"Publish `v=spf1 {mechanism} ~all` as the TXT record of {path}, or cover it by POSTROOM_DOMAINS__SPF.",
    )


async def spf_shown(published: Published, source: Source, resolver: Resolver) -> tuple[str, str, str]:
    """The record that domains are told to publish, whether or not they have."""
    record = f"v=spf1 {published.spf} ~all"
    found = await check_host(source.ip, published.mx_host, f"bounce@{published.mx_host}", resolver, record=record)
    if found.result is Result.PASS:
        return OK, f"The SPF record that domains are told to publish passes mail from {source} by `{found.term}`.", ""
    if found.result is Result.TEMPERROR:
        return UNKNOWN, found.term, ""
    why = f": {found.term}" if found.result is Result.PERMERROR else ""
    text = f"The SPF record that domains are told to publish, `{record}`, does not pass mail from {source}{why}."
    mechanism = f"{'ip6' if ':' in source.ip else 'ip4'}:{source.ip}"
    if "include:" in published.spf:
        return WRONG, text, f"Add {mechanism} to what `{published.spf}` (POSTROOM_DOMAINS__SPF) stands for in the DNS."
    advice = (
        f"Set POSTROOM_DOMAINS__SPF to an `include:` of a name of yours whose record has {mechanism} and the other addresses, and "
        "tell the owners of domains before (docs/domains.md)."
    )
    return WRONG, text, advice


async def dkim(row: Mapping[str, Any], published: Published, resolver: Resolver) -> tuple[str, str, str]:
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


async def dmarc(row: Mapping[str, Any], resolver: Resolver) -> tuple[str, str, str]:
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


async def port_out(
    what: Scene, resolver: Resolver, sources: Sequence[Source | Finding], source: Source | None = None
) -> tuple[str, str, str]:
    """From `source`, which this machine has; None: from whichever address it takes."""
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
    found = await _probe(host, port, what, resolver, tls=False, source=source)
    if found is None:
        return UNKNOWN, f"{host} has no address that {source} could be tried with.", ""
    if found.error:
        return WRONG, f"{f'From {source}: ' if source else ''}{host}: {found.error}.", ask
    if source is not None:
        return OK, f"{host} answers {source} on port {port}.", ""
    from_ = ", ".join(source.ip for source in sources if isinstance(source, Source)) or "this machine"
    return OK, f"{host} answers on port {port} ({from_}).", ""


async def port_in(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    host = what.published.mx_host
    found = await _probe(host, what.mx_port, what, resolver, tls=False) or Probe(f"{host} has no address")
    if found.error:
        advice = (
            f"See that inbound-smtp runs, that port {what.mx_port} leads to it, and that {host} leads here. (A router that does "
            "not lead back inside makes this fail too: then try from elsewhere.)"
        )
        return WRONG, f"{host}: {found.error}. Bounces and mail to your domains do not arrive.", advice
    return OK, f"{host} answers on port {what.mx_port}: {found.greeting}", ""


async def mx_certificate(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    host = what.published.mx_host
    found = await _probe(host, what.mx_port, what, resolver, tls=True) or Probe(f"{host} has no address")
    if found.error:
        return UNKNOWN, f"{host}: {found.error}.", ""
    if not found.starttls:
        advice = "Set POSTROOM_SMTP__TLS_CERT and POSTROOM_SMTP__TLS_KEY."
        return WRONG, f"{host} does not offer STARTTLS: mail to you crosses the network in clear text.", advice
    return judged(found.certificate, host, "POSTROOM_SMTP__TLS_CERT")


async def url_certificate(what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    parts = urlsplit(what.public_url)
    host, port = parts.hostname or "", parts.port or 443
    ips = await ips_of(host, resolver)
    if not ips:
        return WRONG, f"{host} has no address.", "Correct POSTROOM_HTTP__PUBLIC_URL, or publish the name."
    found = await probe_tls(ips[0], port, host, seconds=SECONDS / 2)
    if found.error:
        return (
            WRONG,
            f"{host}: {found.error}.",
            f"See that the proxy in front of api runs and that port {port} leads to it.",
        )
    if found.certificate is not None and found.certificate.self_signed:
        text = f"The certificate of {host} is signed by itself: browsers, and who unsubscribes by one click, refuse it."
        return WRONG, text, "Get one from an authority (Let's Encrypt), and give it to the proxy in front of api."
    return judged(found.certificate, host, "the proxy in front of api")


def judged(certificate: Certificate | None, host: str, where: str) -> tuple[str, str, str]:
    if certificate is None:
        return UNKNOWN, f"{host} shows no certificate that can be read.", ""
    left = certificate.expires_at - datetime.now(UTC)
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


async def _probe(
    host: str, port: int, what: Scene, resolver: Resolver, *, tls: bool, source: Source | None = None
) -> Probe | None:
    """None: the host has no address of the source's kind."""
    try:
        ips = await ips_of(host, resolver)
    except Refused as error:
        return Probe(error.public.rstrip("."))
    if not ips:
        return Probe(f"{host} has no address")
    # where all sources are paused none is left to speak for
    speaks = source or next(iter(what.sources), None)
    helo, bound = (speaks.ehlo if speaks else what.published.mx_host) or "localhost", None
    if source is not None:
        bound = source.bound or source.ip
        ips = [ip for ip in ips if (":" in ip) == (":" in bound)]
        if not ips:
            return None
    return await probe(ips[0], port, host, helo=helo, seconds=SECONDS / 2, source_ip=bound, tls=tls)


async def ips_of(host: str, resolver: Resolver) -> Sequence[str]:
    """Of an address itself, or of a name. Raises Refused and TemporaryDNSError."""
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return (await addresses_of(host, resolver)).values
