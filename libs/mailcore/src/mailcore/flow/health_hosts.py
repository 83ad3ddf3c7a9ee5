"""Health checks of the hosts that our domains' names stand for: those that links lead to, and those of their MTA-STS policies.

Whoever owns a domain says where its names lead: a private address is connected to only where the operator has opened its network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailcore.dns import mta_sts
from mailcore.dns.required import tracking_key
from mailcore.dns.resolver import NoSuchDomain, Resolver
from mailcore.dns.verdict import VERIFIED
from mailcore.flow.health_checks import OK, SECONDS, UNKNOWN, WRONG, Scene, ips_of, judged
from mailcore.kit import addresses
from mailcore.kit.errors import Refused
from mailcore.transport.probe import probe_tls


def link_hosts(row: Mapping[str, Any]) -> list[str]:
    """That links in mail of the domain lead to, or led: its tracking subdomains whose records have been found."""
    labels = [label for label in (row["tracking_subdomain"], *row["old_tracking"]) if label]
    return [f"{label}.{row['name']}" for label in labels if row["record_status"].get(tracking_key(label)) == VERIFIED]


def subjects(row: Mapping[str, Any]) -> list[str]:
    """What findings about the domain begin with."""
    return [row["name"], mta_sts.PREFIX + row["name"], *link_hosts(row)]


async def link_certificate(host: str, what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    return await _certificate(
        host, what, resolver, "links in mail do not open", "the proxy in front of api (docs/tracking.md)"
    )


async def policy_host(row: Mapping[str, Any], what: Scene, resolver: Resolver) -> tuple[str, str, str]:
    """RFC 8461 §3.3: a policy whose host has no good certificate is none."""
    name, host = row["name"], mta_sts.PREFIX + row["name"]
    try:
        announced = mta_sts.read_record((await resolver.txt(mta_sts.RECORD_PREFIX + name)).values)
    except NoSuchDomain:
        announced = None
    if announced is None:
        return OK, f"{name} announces no MTA-STS policy, so that nobody asks {host}.", ""
    return await _certificate(host, what, resolver, "nobody can fetch the MTA-STS policy", "whoever serves the policy")


async def _certificate(host: str, what: Scene, resolver: Resolver, so: str, where: str) -> tuple[str, str, str]:
    """Raises TemporaryDNSError."""
    see = f"See that {where} runs, and answers for {host} on port {what.https_port}."
    try:
        ips = await ips_of(host, resolver)
    except Refused as error:
        return WRONG, f"{error.public} So {so}.", see
    open_ = [ip for ip in ips if addresses.refusal(addresses.parse_address(ip), what.allow) is None]
    if ips and not open_:
        text = f"{host} leads to a private address from here: nobody has looked."
        return UNKNOWN, text, "POSTROOM_NETWORK__ALLOW__MX opens networks."
    if not open_:
        return WRONG, f"{host} has no address: {so}.", see
    found = await probe_tls(open_[0], what.https_port, host, seconds=SECONDS / 2)
    if found.error:
        return WRONG, f"{host}: {found.error}; {so}.", see
    if found.certificate is not None and found.certificate.self_signed:
        text = f"The certificate of {host} is signed by itself: {so}."
        return WRONG, text, f"Get one from an authority (Let's Encrypt), and give it to {where}."
    return judged(found.certificate, host, where)
