"""What Gmail, Yahoo and Microsoft ask of bulk senders, as a gate before broadcasts.

1. `requirements`, `lacking`   what is met, by one domain's row and what the health checks found, and what keeps it back; no I/O.
                       `of_every_mail`: what is asked of mail that is no broadcast, too (flow.bulk)
2. `standing`          of a domain, to be shown: GET /v1/domains/:id/reputation, GET /v1/trace?broadcast=true
3. `check_broadcast`   Refused, with what to do, where one is not met. The door of broadcasts, once there is one, calls it once,
                       before the first of its mails is submitted: submit itself does not ask, for that would be a look a mail.
                       Bulk that is handed in mail by mail is noticed by flow.bulk

What is not known keeps nobody from sending.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailcore.dns.required import dkim_key
from mailcore.dns.verdict import TEMPORARY, VERIFIED
from mailcore.kit.errors import NotFound, Refused
from mailcore.kit.settings import Reputation
from mailcore.store import domains, health, reputation
from mailcore.store.session import Store

MIN_RSA_BITS = 1024
"""Gmail's least; 2048 is advised."""


# ---- 1. what bulk senders must have ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requirement:
    name: str
    status: str
    """ok, missing, unknown: what is not known keeps nobody from sending."""
    text: str
    advice: str = ""


def requirements(
    row: Mapping[str, Any],
    *,
    link_url: str,
    findings: Sequence[Mapping[str, Any]] = (),
    paused: str | None = None,
    catches: bool = False,
) -> list[Requirement]:
    """Of Gmail and Yahoo (February 2024) and Microsoft (May 2025), for senders of some 5,000 mails a day and more.

    `row`: of domains with `dkim`. `link_url`: where unsubscribe links of this domain lead. `findings`: of the health checks.
    `catches`: no mail leaves this installation, so that nobody asks for anything.
    """
    if catches:
        found = [Requirement("Catch", "ok", "This installation catches all mail: no receiver judges it.")]
    else:
        found = [*of_every_mail(row, findings), _one_click(link_url)]
    if paused is not None:
        found.append(Requirement("Reputation", "missing", "The domain is paused.", paused))
    return found


def of_every_mail(row: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> list[Requirement]:
    """What is asked of all that a bulk sender sends: all but unsubscribing, which is asked of mailings only."""
    return [
        _told_wrong("SPF", "spf", row, findings) or _spf(row),
        _told_wrong("DKIM", "dkim", row, findings) or _dkim(row),
        _told_wrong("DMARC", "dmarc", row, findings) or _dmarc(row, findings),
        *(_of_health(name, check, findings) for name, check in (("PTR", "ptr"), ("TLS", "certificate"))),
    ]


def _told(
    check: str, status: str, row: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """What the health checks found about this domain, where they looked at it: fresher than the daily look that `row` knows."""
    return next(
        (
            each
            for each in findings
            # of spf the subject is the domain and an address
            if each["check"] == check and each["status"] == status and each["subject"].split(" ")[0] == row["name"]
        ),
        None,
    )


def _told_wrong(
    name: str, check: str, row: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]
) -> Requirement | None:
    wrong = _told(check, "wrong", row, findings)
    return None if wrong is None else Requirement(name, "missing", wrong["text"], wrong["advice"])


def _spf(row: Mapping[str, Any]) -> Requirement:
    records = row["record_status"]
    if all(records.get(key) in (VERIFIED, TEMPORARY) for key in ("spf_txt", "spf_mx")):
        path = f"{row['custom_return_path']}.{row['name']}"
        return Requirement(
            "SPF", "ok", f"{path}, where mail comes from, has its SPF record. It is aligned with the From address."
        )
    text = "The return path's SPF and MX records are not verified."
    return Requirement(
        "SPF", "missing", text, f"Publish the SPF records of GET /domains/{row['id']}, then verify the domain."
    )


def _dkim(row: Mapping[str, Any]) -> Requirement:
    keys = row["dkim"]
    verified = [key for key in keys if row["record_status"].get(dkim_key(key["selector"])) in (VERIFIED, TEMPORARY)]
    if not verified:
        text = "No DKIM key of the domain is published."
        return Requirement(
            "DKIM", "missing", text, f"Publish the DKIM records of GET /domains/{row['id']}, then verify the domain."
        )
    short = [key["selector"] for key in verified if 0 < _rsa_bits(key["public_txt"]) < MIN_RSA_BITS]
    if short:
        text = f"The key {short[0]} has fewer than {MIN_RSA_BITS} bits: receivers take it for none."
        return Requirement("DKIM", "missing", text, "Use an RSA key of 2048 bits.")
    selectors = ", ".join(key["selector"] for key in verified)
    return Requirement("DKIM", "ok", f"Signed by d={row['name']} ({selectors}), aligned with the From address.")


def _rsa_bits(public_txt: str) -> int:
    """0 for what is no RSA key."""
    value = next(
        (part.split("=", 1)[1] for part in public_txt.replace(" ", "").split(";") if part.startswith("p=")), ""
    )
    try:
        key = load_der_public_key(base64.b64decode(value))
    except (ValueError, TypeError):
        return 0
    return key.key_size if isinstance(key, RSAPublicKey) else 0


def _dmarc(row: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> Requirement:
    name, seen = row["name"], row["seen"]
    there = _told("dmarc", "ok", row, findings)
    if there is not None:
        return Requirement("DMARC", "ok", there["text"])
    own, above = seen.get("dmarc"), seen.get("dmarc_above")
    if own or above:
        return Requirement("DMARC", "ok", f"Policy{'' if own else ' of the domain above'}: {own or above}")
    if own is None:
        return Requirement("DMARC", "unknown", f"The DNS has not told yet whether _dmarc.{name} exists.")
    return Requirement(
        "DMARC", "missing", f"There is no DMARC policy for {name}.", f"Publish TXT `v=DMARC1; p=none` at _dmarc.{name}."
    )


def _one_click(url: str) -> Requirement:
    # RFC 8058 §3.1: an HTTPS URI
    if url.startswith("https:"):
        return Requirement("Unsubscribe", "ok", f"Each mail carries its own one-click link (RFC 8058) at {url}.")
    return Requirement(
        "Unsubscribe",
        "missing",
        f"Links lead to {url}, and one-click unsubscribing needs https (RFC 8058).",
        "Set POSTROOM_HTTP__PUBLIC_URL or POSTROOM_TRACKING__URL to an https address, or give the domain a tracking subdomain.",
    )


def _of_health(name: str, check: str, findings: Sequence[Mapping[str, Any]]) -> Requirement:
    of_it = [each for each in findings if each["check"] == check]
    wrong = next((each for each in of_it if each["status"] == "wrong"), None)
    if wrong is not None:
        return Requirement(name, "missing", wrong["text"], wrong["advice"])
    if not of_it or all(each["status"] == "unknown" for each in of_it):
        return Requirement(name, "unknown", "The health checks have not found out yet.")
    return Requirement(name, "ok", next(each["text"] for each in of_it if each["status"] == "ok"))


def lacking(found: Sequence[Requirement], limits: Reputation) -> list[Requirement]:
    """Those for which broadcasts are refused. Without the gate only a pause is: it is no advice."""
    return [each for each in found if each.status == "missing" and (limits.gate or each.name == "Reputation")]


# ---- 2. the gate -------------------------------------------------------------------------------------------------------


async def standing(
    store: Store, org_id: UUID, domain_id: UUID, *, link_url: str, catches: bool = False
) -> tuple[asyncpg.Record, list[Requirement]]:
    """The domain's row and its requirements. `link_url` for domains without a verified tracking subdomain. Raises NotFound."""
    async with store.tenant(org_id) as db:
        row = await domains.find(db, domain_id)
        if row is None:
            raise NotFound("Domain not found")
        open_ = await reputation.of_domain(db, domain_id)
        findings = await health.findings(db)
        tracking = await domains.tracking_host(db, domain_id)
    paused = next((each["text"] for each in open_ if each["action"] == "paused"), None)
    url = link_url if tracking is None else f"https://{tracking}"
    return row, requirements(row, link_url=url, findings=findings, paused=paused, catches=catches)


async def check_broadcast(
    store: Store, org_id: UUID, domain_id: UUID, limits: Reputation, *, link_url: str, catches: bool = False
) -> None:
    """Before a broadcast is fanned out. Raises Refused with what is missing and what to do about each; NotFound."""
    row, found = await standing(store, org_id, domain_id, link_url=link_url, catches=catches)
    missing = lacking(found, limits)
    if missing:
        what = " ".join(f"{each.name}: {each.text} {each.advice}".strip() for each in missing)
        raise Refused(f"Broadcasts may not be sent from {row['name']} now. {what}", name="bulk_sender_requirements")
