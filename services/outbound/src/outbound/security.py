"""What TLS with a domain's mail hosts must come to, asked together with where they are (RFC 7672, RFC 8461).

1. DANE: where the MX answer and a host's addresses are validated, its TLSA records decide about that host alone; when nobody can
   tell whether it has any, nothing is sent there
2. MTA-STS: where DANE does not hold, the domain's policy decides: which hosts, and that their certificates are good. DANE takes
   precedence (RFC 8461 §2), but a host that the policy does not name stays closed
3. otherwise TLS is opportunistic

A domain that wants TLS reports is noted, with its policies, for `tls_results`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from mailcore.dns import tls_rpt
from mailcore.dns.resolver import DnsResolver, NoSuchDomain, TemporaryDNSError
from mailcore.dns.tlsa import Tlsa, tlsa_of, usable
from mailcore.flow.mta_sts import Sts, StsPolicies
from mailcore.store.contents import Content
from mailcore.transport import Hop
from mailcore.transport.tls import OPPORTUNISTIC, FailureType, Kind, Security
from outbound.tls_results import Policies, TlsResults


class Securing:
    def __init__(self, resolver: DnsResolver, policies: StsPolicies, results: TlsResults) -> None:
        self._resolver = resolver
        self._policies = policies
        self._results = results

    async def secured(self, domain: str, hops: Sequence[Hop], *, signed: bool) -> tuple[Hop, ...]:
        """The hops with what each asks of TLS. `signed`: the answer to the MX question was validated. Raises Unavailable."""
        (sts, wanted), found = await asyncio.gather(
            asyncio.gather(self._policies.of(domain), self._reports_wanted(domain)),
            asyncio.gather(*(self._dane(domain, hop, signed=signed) for hop in hops)),
        )
        secured = tuple(
            replace(hop, security=_with_sts(hop, security, sts), vouched=hop.vouched or _named(hop, sts))
            for hop, (security, _) in zip(hops, found, strict=True)
        )
        tlsa = {hop.host: records for hop, (_, records) in zip(hops, found, strict=True) if records is not None}
        self._results.watch(domain, Policies(sts, tlsa) if wanted else None)
        return secured

    async def _dane(self, domain: str, hop: Hop, *, signed: bool) -> tuple[Security, Tlsa | None]:
        if not signed:
            return OPPORTUNISTIC, None
        try:
            tlsa = await tlsa_of(hop.host, hop.port, self._resolver)
        except TemporaryDNSError as error:
            why = f"nobody could tell whether {hop.host} has DANE records: {error.public}"
            return Security(Kind.CLOSED, why=why, failure=FailureType.DNSSEC), None
        if tlsa is None:
            return OPPORTUNISTIC, None
        records = usable(tlsa.records)
        if not records:
            return Security(Kind.DANE_UNUSABLE), tlsa
        # RFC 7672 §3.2.2: the name under which the records stand, the host's own, and the next-hop domain
        names = tuple(dict.fromkeys((tlsa.base, hop.host, domain)))
        return Security(Kind.DANE, records, names), tlsa

    async def _reports_wanted(self, domain: str) -> bool:
        try:
            return bool(tls_rpt.read_record((await self._resolver.txt(tls_rpt.RECORD_PREFIX + domain)).values))
        except (NoSuchDomain, TemporaryDNSError):
            return False


def _with_sts(hop: Hop, dane: Security, sts: Sts) -> Security:
    policy = sts.policy
    if policy is None or dane.kind is Kind.CLOSED:
        return dane
    if policy.covers(hop.host):
        if dane.kind is not Kind.NONE:
            return dane
        return Security(Kind.STS if policy.mode == "enforce" else Kind.STS_TESTING)
    why = f"the recipient's MTA-STS policy does not name the host {hop.host}"
    if policy.mode == "enforce":
        return Security(Kind.CLOSED, why=why, failure=FailureType.OTHER)
    return dane if dane.kind is not Kind.NONE else Security(Kind.STS_TESTING, why=why, failure=FailureType.OTHER)


def _named(hop: Hop, sts: Sts) -> bool | None:
    """By the domain's own policy host, which has shown its certificate; whether or not the policy is being tested."""
    if sts.policy is None:
        return None if sts.failure else False
    return sts.policy.covers(hop.host)


def fingerprint(hops: Sequence[Hop]) -> str:
    """Empty where all is opportunistic. Domains of one site whose hosts ask for other things do not share a run."""
    asked = [
        (hop.host, hop.security, hop.vouched)
        for hop in hops
        if hop.vouched is not False or hop.security != OPPORTUNISTIC
    ]
    return hashlib.sha256(repr(sorted(asked, key=lambda each: each[0])).encode()).hexdigest()[:16] if asked else ""


_NOT_REQUIRED = re.compile(rb"^tls-required:[ \t]*no[ \t]*\r$", re.IGNORECASE | re.MULTILINE)


def tls_not_required(content: Content, octets: bytes) -> bool:
    """RFC 8689 §5: `TLS-Required: No` in its header. The recipient's side is asked for no TLS; a sender's own demand stays."""
    if content.raw is None and content.raw_blob is None:
        headers = content.headers.items()
        return any(name.lower() == "tls-required" and value.strip().lower() == "no" for name, value in headers)
    return bool(_NOT_REQUIRED.search(octets[: octets.find(b"\r\n\r\n") + 2]))
