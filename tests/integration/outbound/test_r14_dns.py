"""R14: what the DNS can say about a domain.

Wanted: SERVFAIL, silence and what does not validate are tried again; NXDOMAIN and null MX bounce at once; private addresses are
refused; odd but usable answers are used. POSTROOM_TEST_EACH=100 for the plan's number.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant, until
from peers import free_port

EACH = int(os.environ.get("POSTROOM_TEST_EACH", "4"))
HERE = "127.79.0.1"
"""The one address that the operator has opened; all others of 127.0.0.0/8 are as private as ever."""

Zone = dict[str, dict[str, list[str]]]

KINDS: dict[str, Any] = {
    "servfail": lambda d: {},
    "timeout": lambda d: {},
    "bogus": lambda d: {},  # to a resolver that validates, a broken signature is SERVFAIL (RFC 4035 §5.5)
    "nxdomain": lambda d: {},
    "null": lambda d: {d: {"MX": ["0 ."]}},
    "alias": lambda d: {
        d: {"MX": [f"10 mx.{d}."]},
        f"mx.{d}": {"CNAME": [f"real.{d}."]},
        f"real.{d}": {"A": [HERE]},
    },
    "domain-alias": lambda d: {
        d: {"CNAME": [f"real.{d}."]},
        f"real.{d}": {"MX": [f"10 mx.{d}."]},
        f"mx.{d}": {"A": [HERE]},
    },
    "loopback": lambda d: {d: {"MX": [f"10 mx.{d}."]}, f"mx.{d}": {"A": ["127.0.0.1"]}},
    "private": lambda d: {d: {"MX": [f"10 mx.{d}."]}, f"mx.{d}": {"A": ["10.1.2.3"], "AAAA": ["fd00::1"]}},
    "half-private": lambda d: {
        d: {"MX": [f"10 in.{d}.", f"20 out.{d}."]},
        f"in.{d}": {"A": ["192.168.0.1"]},
        f"out.{d}": {"A": [HERE]},
    },
    "address": lambda d: {d: {"A": [HERE]}},
    "many": lambda d: (
        {d: {"MX": [f"{n} mx{n}.{d}." for n in range(50)]}} | {f"mx{n}.{d}": {"A": [HERE]} for n in range(50)}
    ),
    "dangling": lambda d: {d: {"MX": [f"10 gone.{d}."]}},
    "ourselves": lambda d: {d: {"MX": ["10 outbound.test."]}},
}
BOUNCED = {
    "nxdomain": ("no-such-domain", 550, "5.1.2"),
    "null": ("null-mx", 556, "5.1.10"),
    "loopback": ("private-address", 550, "5.4.4"),
    "private": ("private-address", 550, "5.4.4"),
    "dangling": ("no-address", 550, "5.4.4"),
    "ourselves": ("mail-loop", 550, "5.4.6"),
}
WAITING = ("servfail", "timeout", "bogus")
DELIVERED = ("alias", "domain-alias", "half-private", "address", "many")


async def test_r14_answers_of_the_dns(tenant: Tenant, outbound: Any, admin: asyncpg.Connection) -> None:
    domains = {kind: [f"{kind}{n}.example" for n in range(EACH)] for kind in KINDS}
    zones: Zone = {"outbound.test": {"A": [HERE]}}
    for kind, names in domains.items():
        for name in names:
            zones |= KINDS[kind](name)
    port = free_port()
    failing, silent = {*domains["servfail"], *domains["bogus"]}, set(domains["timeout"])
    async with (
        SmtpServer(host=HERE, port=port) as sink,
        DnsServer(zones, failing=failing, silent=silent) as dns,
        outbound(
            route="mx",
            mx_port=port,
            # the name server shares this process: the more it is asked, the longer it takes, and that is not the question
            dns={"nameservers": [dns.address], "timeout_seconds": 5},
            network={"allow": {"mx": [f"{HERE}/32"]}},
        ),
    ):
        everyone = [f"u@{name}" for names in domains.values() for name in names]
        await tenant.send_each([[each] for each in everyone])
        settled = EACH * (len(BOUNCED) + len(DELIVERED))
        done = "SELECT count(*) = $1 FROM deliveries WHERE state IN ('delivered', 'bounced')"
        await until(lambda: admin.fetchval(done, settled), "what can end has ended", 60 + 3 * EACH)
        resting = "SELECT count(*) = $1 FROM sites WHERE key LIKE 'domain:%' AND suspended_until > now()"
        await until(lambda: admin.fetchval(resting, EACH * len(WAITING)), "the others rest", 60 + 3 * EACH)
    rows = await admin.fetch("SELECT email_id, recipient, state FROM deliveries")
    states: dict[str, Counter[str]] = {}
    for row in rows:
        states.setdefault(_kind(row["recipient"]), Counter())[row["state"]] += 1
    assert states == (
        {key: Counter(bounced=EACH) for key in BOUNCED}
        | {key: Counter(queued=EACH) for key in WAITING}
        | {key: Counter(delivered=EACH) for key in DELIVERED}
    )
    attempts = await admin.fetch(
        "SELECT d.recipient, a.rule, a.code, a.enhanced_code, a.mx_ip FROM attempts a JOIN deliveries d USING (email_id, n)"
    )
    said = {(_kind(row["recipient"]), row["rule"], row["code"], row["enhanced_code"]) for row in attempts}
    assert {each for each in said if each[0] in BOUNCED} == {(kind, *why) for kind, why in BOUNCED.items()}
    assert not {each for each in said if each[0] in WAITING}, "no attempt is spent on a DNS that does not answer"
    assert len(attempts) == settled, "one attempt each"
    assert {row["mx_ip"] for row in attempts if row["mx_ip"]} == {HERE}
    assert {talk.peer[0] for talk in sink.talks} <= {HERE, "127.0.0.1"}
    assert await admin.fetchval("SELECT count(*) FROM suppressions WHERE email NOT LIKE '%@null%'") == 0


def _kind(recipient: str) -> str:
    return recipient.partition("@")[2].removesuffix(".example").rstrip("0123456789")
