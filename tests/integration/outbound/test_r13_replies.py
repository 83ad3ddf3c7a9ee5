"""R13: what hosts say, by class: greylisting, full, unknown user, policy, Microsoft's 5.7.515, garbage.

Wanted: the right end for each, and suppression only where the user is unknown.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import asyncpg

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer, Step, Talk
from integration.outbound.harness import Tenant, until
from peers import free_port

EACH = 50
# Wordings as large providers and common servers give them; a case is one of these with its number in it.
REPLIES: dict[str, tuple[str, ...]] = {
    "greylist": (
        "450 4.2.0 <x>: Recipient address rejected: Greylisted, see http://postgrey.example/help",
        "451 4.7.1 Greylisting in action, please come back later",
        "450 4.7.1 Try again in 5 minutes",
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages",
        "451 4.7.650 The mail server has been temporarily rate limited due to IP reputation",
    ),
    "full": (
        "452 4.2.2 The email account that you tried to reach is over quota",
        "452 4.3.1 Insufficient system storage",
        "450 4.2.2 mailbox full, try again later",
    ),
    "unknown": (
        "550 5.1.1 The email account that you tried to reach does not exist",
        "550 5.1.1 <x>: Recipient address rejected: User unknown in virtual mailbox table",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        "550 No such user here",
        "554 delivery error: dd This user doesn't have an account here",
    ),
    "policy": (
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using a blocklist",
        "550 5.7.1 Our system has detected that this message is likely unsolicited mail",
        "550 5.7.26 This mail has been blocked because the sender is unauthenticated",
        "554 5.7.1 Message rejected due to content restrictions",
    ),
    "microsoft": (
        "550 5.7.515 Access denied, sending domain does not meet the required authentication level",
        "550 5.7.509 Access denied, sending domain does not pass DMARC verification",
    ),
    "garbage": ("HTTP/1.1 400 Bad Request", "\x00\xff\xfe", "25", "250-half\r\n550 other half", "999 what"),
}
WANTED = {
    "greylist": ("queued", "deferred"),
    "full": ("queued", "deferred"),
    "unknown": ("bounced", "bounced"),
    "policy": ("bounced", "bounced"),
    "microsoft": ("bounced", "bounced"),
    "garbage": ("queued", "deferred"),
}


HERE = "127.81.0.1"


def _say(talk: Talk) -> Step | None:
    kind, _, number = talk.recipient.partition("@")[0].partition(".")
    if kind not in REPLIES:
        return None
    texts = REPLIES[kind]
    return Step(texts[int(number) % len(texts)].replace("<x>", f"<{talk.recipient}>"))


async def test_r13_replies_by_class(tenant: Tenant, outbound: Any, admin: asyncpg.Connection) -> None:
    """Each mail to a site of its own: what a site says changes how it is sent more, and that is not the question here."""
    recipients = [f"{kind}.{n}@{kind}{n}.example" for kind in REPLIES for n in range(EACH)] + ["good@good.example"]
    domains = [recipient.partition("@")[2] for recipient in recipients]
    zones = {domain: {"MX": [f"10 mx.{domain}."]} for domain in domains}
    zones |= {f"mx.{domain}": {"A": [HERE]} for domain in domains}
    port = free_port()
    async with (
        SmtpServer({"rcpt": _say}, host=HERE, port=port) as server,
        DnsServer(zones) as dns,
        outbound(
            route="mx",
            mx_port=port,
            dns={"nameservers": [dns.address]},
            network={"allow": {"mx": [f"{HERE}/32"]}},
            retry_schedule=[3600],
        ),
    ):
        await tenant.send_each([[each] for each in recipients])
        await until(
            lambda: admin.fetchval("SELECT count(DISTINCT email_id) = $1 FROM attempts", len(recipients)),
            "an attempt for each",
            60,
        )
    assert server.recipients == ["good@good.example"]
    rows = await admin.fetch(
        "SELECT d.recipient, d.state, a.outcome, a.rule FROM deliveries d JOIN attempts a USING (email_id, n)"
    )
    found: dict[str, Counter[tuple[str, str]]] = {}
    for row in rows:
        kind = row["recipient"].partition(".")[0]
        found.setdefault(kind, Counter())[row["state"], row["outcome"]] += 1
    assert {kind: set(ends) for kind, ends in found.items() if kind in WANTED} == {
        kind: {wanted} for kind, wanted in WANTED.items()
    }
    assert all(sum(ends.values()) == EACH for kind, ends in found.items() if kind in WANTED), "one attempt each"
    suppressed = {row["email"] for row in await admin.fetch("SELECT email FROM suppressions")}
    assert suppressed == {f"unknown.{n}@unknown{n}.example" for n in range(EACH)}
    garbage = {row["rule"] for row in rows if row["recipient"].startswith("garbage")}
    assert garbage <= {"garbage-reply", "unexpected-reply", "connection-lost"}, "and what was said is told apart"
