"""What TLS came to on each connection, counted for the reports that recipient domains ask for (RFC 8460).

Counting is a look into two dictionaries a mail, for the few domains that want reports; what was counted is added to the database
every ten seconds, in one statement, and when the process is told to stop. A crash loses those: a report may say less than was,
never more. (A transaction that settles mail does not carry the counts: that would be a statement more for each batch.)

A connection counts once for each domain whose mail it was opened for, whatever number of mails it carries (§4.2: sessions).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from mailcore.dns.tlsa import Tlsa
from mailcore.flow.mta_sts import Sts
from mailcore.smtp.outcome import Outcome, TlsSession
from mailcore.store import tls_reports
from mailcore.store.session import Store
from mailcore.store.tls_reports import Counted

MOST_DOMAINS = 20_000
"""That want reports and are remembered; the ones seen longest ago go."""
MOST_COUNTED = 20_000
"""Different results that wait to be written; what comes beyond that is not counted."""


@dataclass(frozen=True, slots=True)
class Policies:
    """Of a domain, when it was last looked at."""

    sts: Sts
    tlsa: Mapping[str, Tlsa]
    """By host."""


_Key = tuple[str, str, "TlsSession | None"]


class TlsResults:
    def __init__(self) -> None:
        self._domains: OrderedDict[str, Policies] = OrderedDict()
        self._counted: Counter[tuple[str, str, str, str | None]] = Counter()
        """By day, domain, policy and failure, the last two as JSON."""
        self._flushing = asyncio.Lock()

    @property
    def many(self) -> bool:
        """Too many different ones to go on waiting."""
        return len(self._counted) >= MOST_COUNTED // 2

    def watch(self, domain: str, policies: Policies | None) -> None:
        """The domain wants to be told, about these; None: it does not."""
        self._domains.pop(domain, None)
        if policies is None:
            return
        self._domains[domain] = policies
        while len(self._domains) > MOST_DOMAINS:
            self._domains.popitem(last=False)

    def note(self, recipient: str, outcome: Outcome) -> None:
        """For every outcome of a mail."""
        if not self._domains or not outcome.sessions:
            return
        domain = recipient.rpartition("@")[2]
        policies = self._domains.get(domain)
        if policies is None:
            return
        for session in outcome.sessions:
            if domain not in session.told:
                session.told.add(domain)
                self._add(domain, policies, session)

    def _add(self, domain: str, policies: Policies, session: TlsSession) -> None:
        day = datetime.now(UTC).date().isoformat()
        policy = _json(_policy(domain, policies, session))
        failure = None
        if session.failure is not None:
            details = {
                "result-type": session.failure,
                "sending-mta-ip": session.source_ip,
                "receiving-mx-hostname": session.mx_host,
                "receiving-ip": session.mx_ip,
                "failure-reason-code": session.reason[:200] or None,
            }
            failure = _json({name: value for name, value in details.items() if value is not None})
        key = (day, domain, policy, failure)
        if key in self._counted or len(self._counted) < MOST_COUNTED:
            self._counted[key] += 1
        # a policy that could not be fetched ruled nothing, and its owner wants to know (RFC 8460 §4.3.2.2)
        if session.policy != "sts" and policies.sts.failure is not None:
            missed = _json({"policy-type": "sts", "policy-domain": domain})
            reason = {"result-type": policies.sts.failure, "failure-reason-code": policies.sts.reason[:200]}
            self._counted[day, domain, missed, _json(reason)] += 1

    async def flush(self, store: Store) -> None:
        """What was counted so far, when it returns also what another call was writing. Raises Unavailable: then it is kept for the
        next time."""
        async with self._flushing:
            counted, self._counted = self._counted, Counter()
            if not counted:
                return
            try:
                rows = await asyncio.to_thread(_rows, counted)
                async with store.worker() as db:
                    await tls_reports.add(db, rows)
            except BaseException:
                self._counted.update(counted)
                raise


def _rows(counted: Counter[tuple[str, str, str, str | None]]) -> list[Counted]:
    return [
        Counted(
            hashlib.sha256("\0".join((day, domain, policy, failure or "")).encode()).digest(),
            datetime.fromisoformat(day).date(),
            domain,
            policy,
            failure,
            sessions,
        )
        for (day, domain, policy, failure), sessions in counted.items()
    ]


def _policy(domain: str, policies: Policies, session: TlsSession) -> dict[str, Any]:
    """As the report shows it (RFC 8460 §4.4)."""
    if session.policy == "tlsa":
        tlsa = policies.tlsa.get(session.mx_host)
        return {
            "policy-type": "tlsa",
            "policy-string": [str(record) for record in tlsa.records] if tlsa else [],
            "policy-domain": domain,
            "mx-host": [session.mx_host],
        }
    if session.policy == "sts" and policies.sts.policy is not None:
        return {
            "policy-type": "sts",
            "policy-string": policies.sts.policy.lines,
            "policy-domain": domain,
            "mx-host": list(policies.sts.policy.mx),
        }
    return {"policy-type": "no-policy-found", "policy-domain": domain}


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
