"""The verdict on a mail (RFC 9989 §4, §5.3): does an identifier that SPF or DKIM has proven speak for its author?

    verdict = await evaluate(authors, spf, dkim, resolver, sample=crc32(head) % 100)

Of an author that several readers see differently each domain is judged, and the worst verdict is the mail's.

What a stranger can make slow or broken is his own: an identifier whose DNS does not answer makes the verdict `temperror` only where
it lies within the author's organization, and could have spoken for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from mailcore.dns.resolver import NoSuchDomain, Resolver, TemporaryDNSError
from mailcore.mailauth.dkim.verify import Status, Verified
from mailcore.mailauth.dmarc.author import Authors
from mailcore.mailauth.dmarc.record import Policy, Record
from mailcore.mailauth.dmarc.walk import Walk, walk
from mailcore.mailauth.spf.check import Result


class Verdict(StrEnum):
    """RFC 8601 §2.7, as RFC 9989 §9.2 has them for DMARC."""

    NONE = "none"
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    TEMPERROR = "temperror"


@dataclass(frozen=True, slots=True)
class Sender:
    """What SPF found of who handed the mail over."""

    result: Result
    domain: str
    """Of MAIL FROM; of an empty one HELO's name. In normal form; empty where it is no name."""


@dataclass(frozen=True, slots=True)
class Dmarc:
    result: Verdict
    domain: str = ""
    """The author's. Empty: nobody can be held to be the author."""
    policy: Policy = Policy.NONE
    """What is asked for a mail that fails: t= and pct= are in it."""
    policy_domain: str = ""
    """Where the record stands."""
    tag: str = ""
    """Of the record, which gave the policy: p, sp, np."""
    published: Policy | None = None
    """What that tag says."""
    aligned: tuple[str, ...] = ()
    """Of `spf` and `dkim` those that passed and are aligned."""
    reason: str = ""


_NO_SPF = "No signature speaks for the author's domain, and SPF could not be asked."
_ORDER = (Verdict.FAIL, Verdict.TEMPERROR, Verdict.NONE, Verdict.PASS)
"""From the worst."""


async def evaluate(
    authors: Authors,
    spf: Sender | None,
    dkim: Sequence[Verified],
    resolver: Resolver,
    *,
    sample: int,
    trees: Mapping[str, Walk | None] = MappingProxyType({}),
) -> Dmarc:
    """`spf`: None where it could not be asked: then only a signature can prove anything, and its lack nothing.
    `sample`: 0 to 99, the same each time for the same mail; pct= is measured by it. `trees`: by domain, those that have been
    walked already. Raises nothing of its own."""
    found = [await _judge(domain, trees.get(domain), spf, dkim, resolver, sample) for domain in authors.domains]
    if authors.wrong:
        # nobody who writes mail by the book makes such a From: it is never taken for anybody's, policy or none
        domain = found[0].domain if found else ""
        return Dmarc(Verdict.FAIL, domain, Policy.REJECT, reason=authors.wrong)
    if not found:
        return Dmarc(Verdict.NONE, reason="The author's address has no domain name.")
    worst = min(found, key=lambda each: (_ORDER.index(each.result), -list(Policy).index(each.policy)))
    if worst.result is Verdict.NONE and any(each.result is Verdict.PASS for each in found):
        return replace(worst, reason="From names several domains, of which one has no policy.")
    return worst


async def _judge(
    domain: str,
    tree: Walk | None,
    spf: Sender | None,
    dkim: Sequence[Verified],
    resolver: Resolver,
    sample: int,
) -> Dmarc:
    try:
        tree = tree or await walk(domain, resolver)
        if tree.policy is None:
            return Dmarc(Verdict.NONE, domain)
        name, record = tree.policy
        exists = record.np is None or name == domain or await _exists(domain, resolver)
    except TemporaryDNSError as error:
        return Dmarc(Verdict.TEMPERROR, domain, reason=error.public)
    tag, published = record.policy(below=name != domain, exists=exists)
    verdict = Dmarc(
        Verdict.FAIL, domain, _applied(record, published, sample), policy_domain=name, tag=tag, published=published
    )
    passed, unsure = await _aligned(tree, record, spf, dkim, resolver)
    if passed:
        return replace(verdict, result=Verdict.PASS, aligned=passed)
    if unsure:
        return replace(verdict, result=Verdict.TEMPERROR, reason=unsure)
    if spf is None:  # it may be from there: who handed it over at the border is not known here
        return replace(verdict, result=Verdict.NONE, policy=Policy.NONE, reason=_NO_SPF)
    return replace(verdict, reason="Nothing that passed speaks for the author's domain.")


def _applied(record: Record, published: Policy, sample: int) -> Policy:
    """RFC 9989 §4.7, t=; RFC 7489 §6.6.4, pct=."""
    return published.milder if record.testing or sample >= record.pct else published


async def _exists(domain: str, resolver: Resolver) -> bool:
    """RFC 9989 §3.2.12: not where the DNS says NXDOMAIN, to whichever question (RFC 8020)."""
    try:
        await resolver.a(domain)
    except NoSuchDomain:
        return False
    return True


async def _aligned(
    tree: Walk, record: Record, spf: Sender | None, dkim: Sequence[Verified], resolver: Resolver
) -> tuple[tuple[str, ...], str]:
    """Which of spf and dkim passed for the author; and why another look may find one that did, empty where it will not."""
    claims = [("spf", spf.domain, spf.result == Result.PASS, spf.result == Result.TEMPERROR)] if spf else []
    claims += [
        ("dkim", each.domain, each.status is Status.PASS, each.status is Status.TEMPERROR)
        for each in dkim
        if each.domain
    ]
    passed: dict[str, None] = {}
    unsure = ""
    for kind, claimed, well, temporary in claims:
        if (well and kind not in passed) or temporary:
            try:
                fits = await _speaks_for(
                    claimed, tree, record.strict_spf if kind == "spf" else record.strict_dkim, resolver
                )
            except TemporaryDNSError as error:
                unsure = unsure or error.public
                continue
            if fits and well:
                passed[kind] = None
            elif fits:
                unsure = unsure or f"{kind.upper()} of {claimed} could not be checked just now."
            elif well and tree.unsure and _may_be_one(claimed, tree.domain):
                unsure = unsure or tree.unsure
    return tuple(passed), unsure


def _may_be_one(one: str, other: str) -> bool:
    """Whether two names may be of one organization, wherever it begins: they end in the same two labels."""
    return one.split(".")[-2:] == other.split(".")[-2:]


async def _speaks_for(claimed: str, tree: Walk, strict: bool, resolver: Resolver) -> bool:
    """RFC 9989 §4.4.1, §4.4.2."""
    if claimed == tree.domain:
        return True
    organization = tree.organization
    # a name of the same organization lies at it or below: others' DNS need not be asked
    if strict or not (claimed == organization or claimed.endswith(f".{organization}")):
        return False
    return (await walk(claimed, resolver)).organization == organization
