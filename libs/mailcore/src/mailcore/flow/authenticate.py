"""Whether a mail comes from whom it says: SPF, DKIM, ARC and DMARC together, within one time for all.

    found = await Authenticator(resolver, hostname).check(raw, peer_ip=…, helo=…, mail_from=…)
    found.json()     for `arrivals.auth`: what the API shows and routes ask
    found.header     our Authentication-Results field, for whoever gets the mail from us

1. SPF, the DKIM signatures, the ARC chain and the author's DMARC records are asked for together; half of the time is theirs
2. DMARC's verdict of what was found, in the other half: who answers slowly must not use up the time of the domain he forges
3. `disposition`: what the recipient's domain makes of a verdict

What cannot be found out now is a result (temperror), never an error, and never a reason to refuse a mail.
"""

from __future__ import annotations

import ipaddress
import time
import zlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from mailcore.dns.names import normalize_domain
from mailcore.dns.resolver import Resolver, TemporaryDNSError
from mailcore.kit.eager import together
from mailcore.kit.errors import Invalid
from mailcore.kit.log import logger
from mailcore.kit.remember import Remembered
from mailcore.mailauth import results
from mailcore.mailauth.arc.trust import vouching
from mailcore.mailauth.arc.validate import FAIL, NONE, PASS, Chain, validate
from mailcore.mailauth.dkim.canonical import split_fields
from mailcore.mailauth.dkim.verify import Status, Verified, off_loop, verify
from mailcore.mailauth.dmarc.author import Authors, authors
from mailcore.mailauth.dmarc.evaluate import Dmarc, Sender, Verdict, evaluate
from mailcore.mailauth.dmarc.record import Policy
from mailcore.mailauth.dmarc.walk import walk
from mailcore.mailauth.results import Item
from mailcore.mailauth.spf.check import Checked, Result, check_host
from mailcore.store import domains
from mailcore.store.arrivals import Stored
from mailcore.store.session import Store

log = logger(__name__)

SECONDS = 20.0
"""For all of it: the most that SPF, DKIM and a sender who waits for our reply may cost (RFC 7208 §4.6.4)."""
MAX_HEADER = 1024 * 1024
"""Octets of a header; of a mail with a larger one no signature is looked at."""
REPLAY_PEERS, REPLAY_SECONDS = 50, 86_400.0
"""From more addresses than this within a day, one signature is passed around by people who did not make it (RFC 6376 §8.6)."""
MAX_SIGNATURES_KNOWN = 20_000
REMEMBERED_SECONDS = 4.0
"""A policy that is changed counts within five seconds."""
DomainPolicy = Literal["tag", "quarantine", "reject"]
"""What a receiving domain does with mail that fails DMARC: say so, hold it, refuse it where the author's domain asks for that."""
Disposition = Literal["none", "quarantine", "reject"]


@dataclass(frozen=True, slots=True)
class Spf:
    result: Result
    identity: str
    """`mailfrom`, or `helo` for a mail without a return path (RFC 7208 §2.4)."""
    value: str
    """MAIL FROM, or HELO's name."""
    domain: str
    """In normal form; empty where it is no name."""
    term: str = ""
    """Of the record, which decided; what was wrong, of an error."""


@dataclass(frozen=True, slots=True)
class Authentication:
    server: str
    """Our name in the header field."""
    spf: Spf | None
    """None: nobody handed it over by SMTP."""
    dkim: tuple[Verified, ...]
    dmarc: Dmarc
    arc: Chain
    replayed: bool = False
    """A signature of it comes from ever more places; what it proves of its author stays true."""
    vouched: str = ""
    """DMARC fails, and did not before this trusted sealer passed the mail on: its policy is not applied (RFC 8617 §7.2.1)."""

    @property
    def header(self) -> str:
        """One Authentication-Results field, with its CRLFs."""
        return results.compose(self.server, self.items)

    @property
    def items(self) -> list[Item]:
        """Also what a set of ours in the ARC chain says (mailauth.arc.seal)."""
        items = []
        if self.spf is not None:
            value = results.address(self.spf.value) if "@" in self.spf.value else results.domain(self.spf.value)
            property_ = "smtp.mailfrom" if self.spf.identity == "mailfrom" else "smtp.helo"
            reason = self.spf.term if self.spf.result in (Result.PERMERROR, Result.TEMPERROR) else ""
            items.append(Item("spf", self.spf.result.value, ((property_, value),), reason))
        items += [_dkim_item(each) for each in self.dkim] or [Item("dkim", "none")]
        if self.arc.status != NONE:
            items.append(Item("arc", self.arc.status, reason=self.arc.reason))
        asked = self.dmarc.policy.value if self.dmarc.policy_domain else ""
        shown = (("header.from", results.domain(self.dmarc.domain)), ("policy.dmarc", asked))
        reason = f"{self.vouched} is trusted and says that it passed there." if self.vouched else self.dmarc.reason
        items.append(Item("dmarc", self.dmarc.result.value, shown, reason))
        return items

    def json(self) -> dict[str, Any]:
        """Texts without control characters."""
        spf, dmarc = self.spf, self.dmarc
        return {
            "spf": spf
            and {
                "result": spf.result.value,
                "identity": spf.identity,
                "domain": spf.domain,
                "reason": _plain(spf.term),
            },
            "dkim": [
                {
                    "result": each.status.value,
                    "domain": each.domain,
                    "selector": each.signature.selector if each.signature else None,
                    "algorithm": each.signature.algorithm if each.signature else None,
                    "reason": _plain(each.reason),
                }
                for each in self.dkim
            ],
            "dmarc": {
                "result": dmarc.result.value,
                "domain": dmarc.domain,
                "policy": dmarc.policy.value,
                "policy_domain": dmarc.policy_domain,
                "published": f"{dmarc.tag}={dmarc.published}" if dmarc.published else None,
                "aligned": list(dmarc.aligned),
                "vouched_by": self.vouched or None,
                "reason": _plain(dmarc.reason),
            },
            "arc": {
                "result": self.arc.status,
                "temporary": self.arc.temporary,
                "sealers": [each.seal.domain for each in self.arc.sets],
                "reason": _plain(self.arc.reason),
            },
            "replayed": self.replayed,
            "header": self.header,
        }


def disposition(found: Mapping[str, Any] | None, policy: str) -> Disposition:
    """What a domain with this policy does with a mail. `found`: as `Authentication.json` gives it; None: not known.

    Only a verdict of `fail` counts, and not where a trusted forwarder vouches for the mail. A domain that refuses holds what the
    author's domain wants quarantined; one that holds quarantines what it would have refused.
    """
    dmarc = (found or {}).get("dmarc") or {}
    failed = dmarc.get("result") == Verdict.FAIL and not dmarc.get("vouched_by")
    if policy == "tag" or not failed or dmarc.get("policy") == Policy.NONE:
        return "none"
    return "reject" if policy == "reject" and dmarc.get("policy") == Policy.REJECT else "quarantine"


def outcomes(found: Mapping[str, Any]) -> dict[str, str]:
    """Method → result, for rules; of several signatures the best. `found` as for `disposition`."""
    signatures = {each["result"] for each in found.get("dkim") or ()}
    best = next((status.value for status in _BEST_FIRST if status in signatures), "none")
    told = {method: (found.get(method) or {}).get("result", "none") for method in ("spf", "dmarc", "arc")}
    return {**told, "dkim": best}


_BEST_FIRST = (Status.PASS, Status.POLICY, Status.FAIL, Status.TEMPERROR, Status.PERMERROR)


def failure(found: Mapping[str, Any] | None) -> str:
    """In words, of a mail whose disposition is not `none`."""
    dmarc = (found or {})["dmarc"]
    if not dmarc["policy_domain"]:
        return str(dmarc["reason"])
    return f"DMARC fails: the mail is not proven to be from {dmarc['domain']}, whose policy is {dmarc['policy']}."


class Signatures:
    """Those that this process has seen lately, and where from: a few octets each."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[float, set[int]]] = {}

    def replayed(self, passed: Sequence[Verified], peer_ip: str | None) -> bool:
        """Whether one of them has come from too many places. `peer_ip`: where the mail comes from now."""
        known = [each.signature.signature for each in passed if each.signature is not None]
        return peer_ip is not None and max([self._count(each, peer_ip) for each in known], default=0) > REPLAY_PEERS

    def _count(self, signature: bytes, peer_ip: str) -> int:
        key, now = hash(signature), self._clock()
        began, peers = self._seen.get(key, (now, set()))
        if now - began > REPLAY_SECONDS:
            began, peers = now, set()
        if key not in self._seen and len(self._seen) >= MAX_SIGNATURES_KNOWN:
            del self._seen[next(iter(self._seen))]  # the one that was seen first
        self._seen[key] = began, peers
        if len(peers) <= REPLAY_PEERS:
            peers.add(hash(peer_ip))
        return len(peers)


class Authenticator:
    """One a process. `hostname`: our name in Authentication-Results; `trusted`: domains whose ARC seals are believed; `clock`:
    seconds since 1970."""

    def __init__(
        self,
        resolver: Resolver,
        hostname: str,
        *,
        seconds: float = SECONDS,
        trusted: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self.server = hostname.lower()
        self._trusted = frozenset(normalize_domain(each, underscore=True) for each in trusted)
        self._seconds = seconds
        self._clock = clock
        self._signatures = Signatures(clock)

    async def check(self, raw: bytes, *, peer_ip: str | None, helo: str, mail_from: str) -> Authentication:
        """`peer_ip`: who handed it over by SMTP; None: nobody did, and there is no SPF. Raises nothing."""
        head, body, octets = *_split(raw), len(raw)
        try:
            fields = await off_loop(octets, split_fields, head) if len(head) <= MAX_HEADER else None
            wrong = "" if fields is not None else f"The header has more than {MAX_HEADER} octets."
        except Invalid as error:
            fields, wrong = None, error.public
        asked = authors(fields) if fields is not None else Authors((), wrong)
        half = self._seconds / 2
        sender = _sender(peer_ip, helo, mail_from)
        spf, dkim, arc, *walked = await together(
            [
                _safely(self._spf(sender, _normal(helo))),
                _safely(self._dkim(head, body, fields or [], half)),
                _safely(self._arc(head, body, fields or [], half)),
                *(_safely(walk(name, self._resolver)) for name in asked.domains),
            ],
            seconds=half,
        )
        spf = _checked(sender, spf) if sender is not None else None
        dkim = [Verified(Status.TEMPERROR, _LATE)] if dkim is None else dkim
        arc = Chain(FAIL, _LATE, temporary=True) if arc is None else arc
        verdict = evaluate(
            asked,
            None if spf is None else Sender(spf.result, spf.domain),
            dkim,
            self._resolver,
            sample=zlib.crc32(head) % 100,
            trees=dict(zip(asked.domains, walked, strict=True)),
        )
        (dmarc,) = await together([_safely(verdict)], seconds=half)
        if dmarc is None:
            dmarc = Dmarc(Verdict.TEMPERROR, asked.domains[0] if asked.domains else "", reason=_LATE)
        replayed = self._signatures.replayed([each for each in dkim if each.status is Status.PASS], peer_ip)
        vouched = ""
        if dmarc.result is Verdict.FAIL and arc.status == PASS and not asked.wrong and len(asked.domains) == 1:
            vouched = vouching(arc.sets, dmarc.domain, self._trusted)
        return Authentication(self.server, spf, tuple(dkim), dmarc, arc, replayed, vouched)

    async def of_arrival(self, raw: bytes, row: Stored) -> dict[str, Any]:
        """For `arrivals.auth`, of a mail that has been taken."""
        facts, by_smtp = row.facts, row.door == "smtp"
        peer_ip = facts.get("peer_ip") or (row.source if by_smtp else None)
        found = await self.check(raw, peer_ip=peer_ip, helo=facts.get("helo") or "", mail_from=row.mail_from)
        return found.json()

    async def _spf(self, sender: _Handed | None, helo: str) -> Checked | None:
        if sender is None or not sender.domain:
            return Checked(Result.NONE, "")
        return await check_host(sender.ip, sender.domain, f"{sender.local}@{sender.domain}", self._resolver, helo=helo)

    async def _dkim(self, head: bytes, body: bytes, fields: _Fields, seconds: float) -> list[Verified]:
        if not any(name == b"dkim-signature" for name, _ in fields):
            return []
        now, seconds = int(self._clock()), seconds * _OF_KEYS
        return await verify(head, body, self._resolver, now=now, seconds=seconds, fields=fields)

    async def _arc(self, head: bytes, body: bytes, fields: _Fields, seconds: float) -> Chain:
        if not any(name == b"arc-seal" for name, _ in fields):
            return Chain(NONE)
        return await validate(head, body, self._resolver, seconds=seconds * _OF_KEYS)


class DmarcPolicies:
    """What our domains want done with mail that fails, remembered for a few seconds. One a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._of: Remembered[tuple[UUID, str], str] = Remembered(self._ask, seconds=REMEMBERED_SECONDS)

    async def of(self, org_id: UUID, domain: str) -> str:
        """Of the organization's domain; one that is not its own, or is gone, asks for nothing. Raises Unavailable."""
        return await self._of.get((org_id, domain)) or "tag"

    def held(self, org_id: UUID, domain: str) -> str | None:
        """The same where it is known; None: it must be asked for."""
        return self._of.held((org_id, domain))

    async def holds(self, org_id: UUID, rcpt_to: Sequence[str], found: Mapping[str, Any] | None) -> str:
        """Why a mail that has been taken is held for all its recipients; empty: it is not. What came by then can be refused no
        longer, without writing to somebody who never sent it. Raises Unavailable."""
        if disposition(found, "reject") == "none":
            return ""
        for domain in dict.fromkeys(address.rpartition("@")[2].lower() for address in rcpt_to):
            policy = await self.of(org_id, domain)
            if disposition(found, policy) != "none":
                return f"{failure(found)} {domain} wants such mail held (dmarc_policy: {policy})."
        return ""

    async def _ask(self, key: tuple[UUID, str]) -> str:
        async with self._store.tenant(key[0]) as db:
            return await domains.dmarc_policy(db, key[1]) or "tag"


_Fields = list[tuple[bytes, bytes]]
_LATE = "The DNS took too long to answer."
_OF_KEYS = 0.8
"""Of its time, what a signature may wait for its key; the rest is for looking at it."""


@dataclass(frozen=True, slots=True)
class _Handed:
    """Who handed a mail over, as SPF asks about it."""

    ip: str
    identity: str
    value: str
    local: str
    domain: str


def _sender(peer_ip: str | None, helo: str, mail_from: str) -> _Handed | None:
    """None: nobody did, by SMTP."""
    try:
        ip = None if peer_ip is None else str(ipaddress.ip_address(peer_ip.partition("%")[0]))
    except ValueError:
        ip = None
    if ip is None:
        return None
    identity, value = ("mailfrom", mail_from) if mail_from else ("helo", helo)
    local, _, domain = value.rpartition("@")
    return _Handed(ip, identity, value, (mail_from and local) or "postmaster", _normal(domain))


def _checked(sender: _Handed, found: Checked | None) -> Spf:
    found = found or Checked(Result.TEMPERROR, _LATE)
    return Spf(found.result, sender.identity, sender.value, sender.domain, found.term)


async def _safely(work: Coroutine[Any, Any, Any]) -> Any:
    """None for whatever a mail can bring about that nobody foresaw: that is a temporary result, too, and the mail goes its way."""
    try:
        return await work
    except TemporaryDNSError:
        return None
    except Exception as error:
        log.warning("a step of authentication failed", error=repr(error), exc_info=error)
        return None


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """Header and body. Mail that came with bare LFs by another door than SMTP is read as if they had been CRLFs."""
    if b"\r\n" not in raw[:2_000] and b"\n" in raw[:2_000]:
        raw = raw.replace(b"\n", b"\r\n")
    end = results.header_end(raw)
    return raw[:end], raw[end + 2 :]


def _normal(domain: str) -> str:
    try:
        return normalize_domain(domain, underscore=True)
    except Invalid:
        return ""


def _dkim_item(each: Verified) -> Item:
    shown: list[tuple[str, str]] = []
    if each.signature is not None:
        shown = [
            ("header.d", results.domain(each.domain)),
            ("header.s", results.word(each.signature.selector)),
            ("header.a", results.word(each.signature.algorithm)),
            ("header.b", results.word(each.header_b)),
        ]
    return Item("dkim", each.status.value, tuple(shown), each.reason)


def _plain(text: str) -> str:
    """For JSON in the database, which takes no NUL."""
    return "".join(character if character.isprintable() else "?" for character in text[:300])
