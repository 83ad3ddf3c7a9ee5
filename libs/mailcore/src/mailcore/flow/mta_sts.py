"""The MTA-STS policy that holds for a recipient domain: from the database, from its own server where it changed (RFC 8461 §3, §5).

1. the TXT record says whether there is a policy, and under which id
2. a kept policy of that id holds until its max_age is over; once a day it is fetched anew all the same (§10.2)
3. otherwise it is fetched over HTTPS from `mta-sts.<domain>`, without redirects, under the guard
4. what cannot be fetched changes nothing: a kept policy goes on to hold until its end, and without one there is none (§3.3, §5)

No transaction is open while the policy is fetched. The database is asked once a look, not once a mail.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from mailcore.dns import mta_sts
from mailcore.dns.mta_sts import BrokenPolicy, StsPolicy
from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.kit.errors import MailError
from mailcore.kit.guard import GuardedClient
from mailcore.kit.log import logger
from mailcore.kit.together import Together
from mailcore.store import mta_sts as store_
from mailcore.store.mta_sts import Kept
from mailcore.store.session import Store

log = logger(__name__)

FETCH_SECONDS = 15.0
"""The whole of it. RFC 8461 §3.3 proposes a minute; mail waits meanwhile, and so may other domains that are looked up."""
REST_SECONDS = 300.0
"""After a failure, before the next try (§3.3)."""


@dataclass(frozen=True, slots=True)
class Sts:
    """What a look found."""

    policy: StsPolicy | None
    """The one that holds; None: none does, or its mode is none."""
    failure: str | None = None
    """Why there is none, or no newer one, as TLS reports name it (RFC 8460 §4.3.2.2)."""
    reason: str = ""


NOTHING = Sts(None)


class StsPolicies:
    """`port`: of policy hosts, 443 outside of labs."""

    def __init__(self, store: Store, resolver: Resolver, client: GuardedClient, *, port: int = 443) -> None:
        self._store = store
        self._resolver = resolver
        self._client = client
        self._port = port
        # many domains become known at the same time; one statement at a time leaves the pool to mail that is on its way
        self._kept = Together(partial(_all_kept, store), at_a_time=1)

    async def of(self, domain: str) -> Sts:
        """Raises Unavailable when the database does not answer: then nobody knows what holds."""
        policy_id = await self._announced(domain)
        kept = (await self._kept.ask([domain])).get(domain)
        if policy_id is None:
            return _of(kept)  # RFC 8461 §5.1: a record that is gone ends nothing before its time
        if kept is not None and kept.alive and kept.policy_id == policy_id and not kept.stale:
            return _of(kept)
        if kept is not None and kept.resting:
            return _of(kept)
        return await self._fetch(domain, policy_id, kept)

    async def _announced(self, domain: str) -> str | None:
        try:
            found = await self._resolver.txt(mta_sts.RECORD_PREFIX + domain)
        except (NoSuchDomain, TemporaryDNSError):
            return None
        return mta_sts.read_record(found.values)

    async def _fetch(self, domain: str, policy_id: str, kept: Kept | None) -> Sts:
        port = "" if self._port == 443 else f":{self._port}"
        url = f"https://{mta_sts.PREFIX}{domain}{port}{mta_sts.PATH}"
        try:
            answer = await self._client.request("GET", url, deadline=FETCH_SECONDS, max_body=mta_sts.MAX_POLICY)
        except MailError as error:
            return await self._failed(domain, kept, _kind(error), error.public)
        if answer.status != 200:  # RFC 8461 §3.3: redirects are not followed
            return await self._failed(domain, kept, "sts-policy-fetch-error", f"the host answered {answer.status}")
        if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/plain":
            return await self._failed(domain, kept, "sts-policy-invalid", "the policy is not text/plain")
        if answer.truncated:
            words = f"the policy has more than {mta_sts.MAX_POLICY} octets"
            return await self._failed(domain, kept, "sts-policy-invalid", words)
        try:
            policy = mta_sts.read_policy(answer.body)
        except BrokenPolicy as error:
            return await self._failed(domain, kept, "sts-policy-invalid", str(error))
        async with self._store.worker() as db:
            await store_.keep(db, domain, policy_id, policy.mode, policy.mx, policy.max_age)
        log.info("an MTA-STS policy was fetched", domain=domain, mode=policy.mode, max_age=policy.max_age)
        return Sts(policy) if policy.mode != "none" else NOTHING

    async def _failed(self, domain: str, kept: Kept | None, failure: str, reason: str) -> Sts:
        log.warning("an MTA-STS policy cannot be fetched", domain=domain, failure=failure, reason=reason)
        async with self._store.worker() as db:
            await store_.failed(db, domain, failure, reason[:500], rest=REST_SECONDS)
        return Sts(_of(kept).policy, failure, reason)


async def _all_kept(store: Store, domains: Collection[str]) -> dict[str, Kept]:
    async with store.worker() as db:
        return await store_.all_kept(db, domains)


def _of(kept: Kept | None) -> Sts:
    if kept is None:
        return NOTHING
    policy = None
    if kept.alive and kept.mode is not None and kept.mode != "none":
        policy = StsPolicy(kept.mode, kept.mx, kept.max_age)
    return Sts(policy, kept.failure, kept.reason or "")


def _kind(error: BaseException) -> str:
    """A certificate that is not the policy host's is told apart from a host that does not answer (RFC 8460 §4.3.2.2)."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "sts-webpki-invalid"
        cause = cause.__cause__ or cause.__context__
    return "sts-policy-fetch-error"
