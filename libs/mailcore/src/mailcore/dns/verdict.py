"""Whether required records are there, and what that makes of each and of the domain. No rows, no clock of its own.

1. `look_up` asks the DNS for one record: there, not there, or no answer
2. `statuses` makes of it a status a record
3. `overall` makes of those the domain's status; sending and receiving are in force each for itself

no answer never takes away what was verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailcore.dns.required import Required
from mailcore.dns.resolver import NoSuchDomain, Records, Resolver, TemporaryDNSError

NOT_STARTED, VERIFIED, PENDING, FAILED, TEMPORARY = "not_started", "verified", "pending", "failed", "temporary_failure"
PARTIALLY_VERIFIED, PARTIALLY_FAILED = "partially_verified", "partially_failed"
OWNED = (VERIFIED, PARTIALLY_VERIFIED, PARTIALLY_FAILED)
"""Statuses with which a name is one organization's."""
_NONE: Records[Any] = Records((), 0)


async def look_up(required: Required, resolver: Resolver) -> bool | None:
    """Whether the record is there; None when the DNS did not answer."""
    try:
        if required.type == "CNAME":
            return await _points_to(required.fqdn, required.value.lower(), resolver)
        if required.type == "CAA":
            return await may_issue(required.fqdn, required.value.split('"')[1], resolver)
        if required.type == "MX":
            answer = await resolver.mx(required.fqdn)
            return any(record.host == required.value.lower() for record in answer.values)
        texts = (await resolver.txt(required.fqdn)).values
    except NoSuchDomain:
        return False
    except TemporaryDNSError:
        return None
    if required.record == "DKIM":
        return any(same_key(text, required.value) for text in texts)
    # RFC 7208 §4.5: two SPF records are an error, whatever they say
    found = [text.lower().split() for text in texts if is_spf(text)]
    wanted = required.value.lower().split()[
        1:-1
    ]  # between the version and ~all: one, or as many as the operator has set
    return len(found) == 1 and all(term in found[0] or f"+{term}" in found[0] for term in wanted)


def is_spf(text: str) -> bool:
    """RFC 7208 §4.5: exactly `v=spf1`, then a blank or the end."""
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")


def same_key(text: str, wanted: str) -> bool:
    """Whether a published key record carries our key; blanks and other tags do not matter (RFC 6376 §3.6.1)."""
    return _tags(text).get("p") == _tags(wanted).get("p") != ""


def _tags(text: str) -> dict[str, str]:
    pairs = (tag.partition("=") for tag in text.split(";"))
    return {name.strip().lower(): re.sub(r"\s+", "", value) for name, _, value in pairs}


async def _points_to(name: str, target: str, resolver: Resolver) -> bool:
    if target in (await resolver.cname(name)).values:
        return True
    # a zone's own alias (ALIAS, flattening) shows as the target's addresses
    ours = {*(await _or_none(resolver.a, target)).values, *(await _or_none(resolver.aaaa, target)).values}
    theirs = {*(await _or_none(resolver.a, name)).values, *(await _or_none(resolver.aaaa, name)).values}
    return bool(theirs) and theirs <= ours


async def _or_none(ask: Any, name: str) -> Records[Any]:
    try:
        found: Records[Any] = await ask(name)
    except NoSuchDomain:
        return _NONE
    return found


async def may_issue(name: str, authority: str, resolver: Resolver) -> bool:
    """Whether the CAA records let the authority make a certificate for this name (RFC 8659 §3: the first set found upwards)."""
    labels = name.split(".")
    for depth in range(len(labels)):
        found = (await _or_none(resolver.caa, ".".join(labels[depth:]))).values
        if found:
            issuers = [record.value.partition(";")[0].strip().lower() for record in found if record.tag == "issue"]
            return not issuers or authority.lower() in issuers  # §4.2: without `issue` nothing is forbidden
    return True


# ---- 2. statuses -----------------------------------------------------------------------------------------------------


def statuses(
    wanted: Sequence[Required], found: Sequence[bool | None], before: Mapping[str, str], *, overdue: bool
) -> dict[str, str]:
    """`overdue`: records have been missing for 72 hours."""
    return {
        record.key: _status(record, there, before.get(record.key), overdue=overdue)
        for record, there in zip(wanted, found, strict=True)
    }


def _status(record: Required, there: bool | None, was: str | None, *, overdue: bool) -> str:
    if there:
        return VERIFIED
    had = was in (VERIFIED, TEMPORARY)
    if there is None:
        return TEMPORARY if had else was or PENDING
    if had and record.record.startswith("Tracking"):
        return FAILED  # at once: links that lead nowhere break the mail they stand in
    if overdue:
        return FAILED
    return TEMPORARY if had else PENDING


# ---- 3. the domain's -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    status: str
    lacking: str | None = None
    """The capability that is not in force, of a domain with both."""


def overall(wanted: Sequence[Required], records: Mapping[str, str]) -> Verdict:
    """Nobody receives by an MX alone: a key that only its owner can publish is asked of both capabilities."""
    of = {record.key: record for record in wanted}
    keys = [key for key, record in of.items() if record.record == "DKIM"]
    receiving = [key for key, record in of.items() if record.record == "Receiving"]
    spf = [key for key, record in of.items() if record.record == "SPF"]
    parts = {}
    if spf:
        parts["sending"] = _worst([records.get(key, PENDING) for key in (*spf, *keys)])
    if receiving:
        parts["receiving"] = _worst([records.get(key, PENDING) for key in (*keys, *receiving)])
    # a capability whose records are gone, or could not be asked for, keeps what it had until it has failed
    lacking = [name for name, part in parts.items() if part not in (VERIFIED, TEMPORARY)]
    if not lacking:
        return Verdict(VERIFIED)
    failed = FAILED in parts.values()
    if len(lacking) < len(parts):
        return Verdict(PARTIALLY_FAILED if failed else PARTIALLY_VERIFIED, lacking[0])
    return Verdict(FAILED if failed else PENDING)


def _worst(group: Sequence[str]) -> str:
    return next(status for status in (FAILED, PENDING, TEMPORARY, VERIFIED) if status in group)
