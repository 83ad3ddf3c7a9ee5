"""Whether the DNS has the records that go with a domain's TLS, asked now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from mailcore.dns import mta_sts, tls_rpt
from mailcore.dns.mx import addresses_of
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError

SECONDS = 8.0
"""For all of them together; what is not known by then is `unknown`."""
VERIFIED, MISSING, OTHER, UNKNOWN = "verified", "missing", "other", "unknown"


async def statuses(records: Sequence[Mapping[str, Any]], resolver: Resolver) -> list[str]:
    """One a record, as `api.tls.domains` shows them."""
    asking = [asyncio.ensure_future(_status(record, resolver)) for record in records]
    await asyncio.wait(asking, timeout=SECONDS)
    for each in asking:
        each.cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)
    return [each if isinstance(each, str) else UNKNOWN for each in done]


async def _status(record: Mapping[str, Any], resolver: Resolver) -> str:
    try:
        if record["type"] == "CNAME":
            return await _leads(record["name"], record["value"], resolver)
        found = (await resolver.txt(record["name"])).values
    except NoSuchDomain:
        return MISSING
    except TemporaryDNSError:
        return UNKNOWN
    if record["record"] == "MTA-STS":
        id_ = mta_sts.read_record(found)
        # another id: senders go on with the policy that they know
        return MISSING if id_ is None else VERIFIED if id_ == mta_sts.read_record([record["value"]]) else OTHER
    uris = tls_rpt.read_record(found)
    return MISSING if not uris else VERIFIED if set(tls_rpt.read_record([record["value"]])) <= set(uris) else OTHER


async def _leads(name: str, target: str, resolver: Resolver) -> str:
    """By CNAME, or by addresses that are the target's, as at providers that make one of the other."""
    if target in (await resolver.cname(name)).values:
        return VERIFIED
    there, here = await asyncio.gather(addresses_of(name, resolver), addresses_of(target, resolver))
    if not there.values:
        return MISSING
    return VERIFIED if set(there.values) <= set(here.values) else OTHER
