"""What scanners say of a mail that has arrived, and what its domains make of that: a step of flow.route.

1. `_known`   what was found before: of a mail that was pending, or has been released, only missing answers are asked for
2. `_ask`     all scanners at once, each within its own time, for `at_once` mails a process; then a second opinion, where they are
              unsure or no spam filter answers (B-46)
3. `_waits`   a scanner is away that must have looked (fail closed): the mail is pending, and tried again by itself; one that it
              has no answer for, though it answers for others, is held after an hour
4. `_act`     each recipient's domain decides: junk, held, or only said (flow.scan_policy)

What was found stands in `arrivals.findings`, each of it is a decision. A mail that somebody has released waits for nobody and is
held no more; what is infected in it can still not be downloaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mailcore.flow.in_hand import InHand
from mailcore.flow.scan_policy import Policies, Policy, strictest
from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.kit.metrics import SCAN_SECONDS, SCANS
from mailcore.mime.marks import SPAM_SCL
from mailcore.scanners import gtube
from mailcore.scanners.base import Facts, Finding, Kind, Verdict
from mailcore.scanners.registry import Configured
from mailcore.store.arrivals import Stored
from mailcore.store.session import Store

log = logger(__name__)

REST_AFTER, REST_SECONDS = 10, 5.0
"""A scanner that failed so often in a row is left alone for a while, so that mail does not wait for it; then one mail tries."""
PATIENCE = timedelta(hours=1)
"""How long a mail waits for a scanner that answers for other mail meanwhile: it may have been made so that no answer comes."""
LATELY_SECONDS = 300.0
GRACE_SECONDS = 1.0
"""A scanner ends by itself when its time is over; one that does not is ended."""
_BAD = (Verdict.SPAM, Verdict.LISTED)


class Scans:
    """One a process."""

    def __init__(
        self,
        store: Store,
        scanners: Sequence[Configured] = (),
        *,
        at_once: int = 20,
        again_seconds: float = 15.0,
        scl: int = SPAM_SCL,
    ) -> None:
        asked = [_Asked(one) for one in scanners]
        self._first = [one for one in asked if one.kind is not Kind.OPINION]
        self._second = [one for one in asked if one.kind is Kind.OPINION]
        self.policies = Policies(store, scl=scl)
        self._slots = asyncio.Semaphore(at_once)
        self.again_seconds = again_seconds
        """Until a pending mail is tried again, the first time."""

    async def look(self, mail: InHand) -> None:
        """Fills the mail's findings, verdicts and scores; it may be held, or pending. Raises Unavailable."""
        before = _known(mail.row)
        if not self._first and not self._second and not before:
            trial = gtube.look(mail.raw, mail.summary)  # no scanner is on: this is all that it costs
            if trial is None:
                return
            found = {trial.scanner: trial}
            policies = await self.policies.of(mail.row.org_id, mail.row.rcpt_to)
        else:
            policies = await self.policies.of(mail.row.org_id, mail.row.rcpt_to)
            found = before | await self._ask(mail, before, policies.values())
        mail.findings, mail.policies = list(found.values()), policies
        new = [one for name, one in found.items() if name not in before]
        waits_for = self._waits(mail, found, policies)
        if waits_for:
            _tell(mail, [one for one in new if one.verdict is not Verdict.UNAVAILABLE], policies.values())
            if self._in_vain(mail.row, waits_for):
                names = ", ".join(one.scanner for one in waits_for)
                mail.hold(
                    names, f"{names} answers for other mail, and has no answer for this one. {waits_for[0].detail}"
                )
            else:
                _pend(mail, waits_for)
            return
        _tell(mail, new, policies.values(), self._open())
        _count(mail, policies)
        _act(mail, policies)

    @property
    def on(self) -> bool:
        """Somebody is asked."""
        return bool(self._first or self._second)

    async def ask(self, mail: InHand, policies: Collection[Policy]) -> None:
        """Before the reply: fills its findings and says what they are; nothing is made of them. `policies`: of its recipients'
        domains, whosever they are."""
        mail.findings = list((await self._ask(mail, {}, policies)).values())
        _tell(mail, [one for one in mail.findings if one.verdict is not Verdict.UNAVAILABLE], policies)

    async def close(self) -> None:
        for one in (*self._first, *self._second):
            await one.scanner.close()

    async def _ask(
        self, mail: InHand, before: Mapping[str, Finding], policies: Collection[Policy]
    ) -> dict[str, Finding]:
        """What is found now, of what is not known yet."""
        found: dict[str, Finding] = {}
        if gtube.NAME not in before and (trial := gtube.look(mail.raw, mail.summary)) is not None:
            found[trial.scanner] = trial
        facts = facts_of(mail)
        first = [one for one in self._first if one.name not in before]
        async with self._slots:
            for one in await asyncio.gather(*(each.ask(mail.raw, facts) for each in first)):
                found[one.scanner] = one
            second = [one for one in self._second if one.name not in before]
            if second and self._unsure({**before, **found}, policies):
                facts = replace(facts, findings=tuple({**before, **found}.values()))
                for one in await asyncio.gather(*(each.ask(mail.raw, facts) for each in second)):
                    found[one.scanner] = one
        return found

    def _unsure(self, found: Mapping[str, Finding], policies: Collection[Policy]) -> bool:
        """Whether a second opinion is wanted: nobody says spam, and somebody is unsure or no spam filter said anything."""
        if any(one.verdict is Verdict.INFECTED for one in found.values()):
            return False
        strict = strictest(policies)
        said = {strict.verdict(one) for one in found.values() if one.kind in (Kind.SPAM, Kind.SENDER)}
        if said.intersection(_BAD):
            return False
        filters = [found[one.name] for one in self._first if one.kind is Kind.SPAM]
        return Verdict.UNSURE in said or all(one.verdict is Verdict.UNAVAILABLE for one in filters)

    def _waits(self, mail: InHand, found: Mapping[str, Finding], policies: Mapping[str, Policy]) -> list[Finding]:
        """Whose answers it must wait for. B-46: a spam filter that is away is excused by a second opinion, or when the mail is
        spam without it."""
        if mail.held or mail.row.released_at is not None:
            return []
        said = {each.verdict(one) for one in found.values() for each in policies.values()}
        decided, infected = not said.isdisjoint(_BAD), Verdict.INFECTED in said
        opinion = any(
            one.kind is Kind.OPINION and one.verdict in (Verdict.CLEAN, Verdict.SPAM) for one in found.values()
        )
        waits_for = []
        for one in (*self._first, *self._second):
            away = found.get(one.name)
            excused = infected or (one.kind is not Kind.MALWARE and (decided or (opinion and one.kind is Kind.SPAM)))
            if away is not None and away.verdict is Verdict.UNAVAILABLE and not one.fail_open and not excused:
                waits_for.append(away)
        return waits_for

    def _in_vain(self, row: Stored, waits_for: Sequence[Finding]) -> bool:
        if row.pending_at is None or datetime.now(UTC) - row.pending_at < PATIENCE:
            return False
        names = {one.scanner for one in waits_for}
        return all(one.answers for one in (*self._first, *self._second) if one.name in names)

    def _open(self) -> frozenset[str]:
        return frozenset(one.name for one in (*self._first, *self._second) if one.fail_open)


class _Asked:
    """A scanner, and how it has answered lately."""

    def __init__(self, one: Configured) -> None:
        self.scanner = one.scanner
        self.fail_open = one.fail_open
        self.name, self.kind = one.scanner.name, one.scanner.kind
        self._failed = 0
        self._rests_until = 0.0
        self._answered: float | None = None

    @property
    def answers(self) -> bool:
        """It has answered lately, for some mail."""
        return self._answered is not None and time.monotonic() - self._answered < LATELY_SECONDS

    async def ask(self, raw: bytes, facts: Facts) -> Finding:
        """Raises nothing."""
        found = replace(await self._ask(raw, facts), scanner=self.name, kind=self.kind).clean()
        SCANS.labels(self.name, str(found.verdict)).inc()
        return found

    async def _ask(self, raw: bytes, facts: Facts) -> Finding:
        scanner, began = self.scanner, time.monotonic()
        if scanner.max_bytes and len(raw) > scanner.max_bytes:
            detail = (
                f"Not scanned: it has {len(raw)} octets, and {self.name} is asked about {scanner.max_bytes} at most."
            )
            return Finding(self.name, Verdict.SKIPPED, detail=detail)
        if self._failed >= REST_AFTER:
            if began < self._rests_until:
                return Finding(self.name, Verdict.UNAVAILABLE, detail="It has not answered lately.")
            self._rests_until = began + REST_SECONDS  # this mail tries, the others go on resting
        try:
            async with asyncio.timeout(scanner.seconds + GRACE_SECONDS):
                found = await scanner.scan(raw, facts)
        except Unavailable as error:
            return self._away(error.public)
        except TimeoutError:
            return self._away(f"It did not answer within {scanner.seconds:g} s.")
        except Exception as error:
            log.error("a scanner failed", scanner=self.name, arrival=facts.id, exc_info=error)
            return self._away(f"It failed: {type(error).__name__}.")
        if found.verdict is Verdict.UNAVAILABLE:  # it says more than that it failed
            self._away(found.detail)
            return found
        SCAN_SECONDS.labels(self.name).observe(time.monotonic() - began)
        if self._failed:
            log.info("a scanner answers again", scanner=self.name, failures=self._failed)
        self._failed = 0
        self._answered = time.monotonic()
        return found

    def _away(self, why: str) -> Finding:
        self._failed += 1
        if self._failed in (1, REST_AFTER):
            log.warning("a scanner does not answer", scanner=self.name, failures=self._failed, reason=why)
        if self._failed >= REST_AFTER:
            self._rests_until = time.monotonic() + REST_SECONDS
        return Finding(self.name, Verdict.UNAVAILABLE, detail=why)


# ---- what is made of it ----------------------------------------------------------------------------------------------


def _known(row: Stored) -> dict[str, Finding]:
    """Answers that count: a scanner that was away is asked again."""
    found = [Finding.from_json(one) for one in row.findings or ()]
    return {one.scanner: one for one in found if one.verdict is not Verdict.UNAVAILABLE}


async def recall(mail: InHand, policies: Policies) -> None:
    """What routes ask for, of what was found when it arrived. Raises Unavailable."""
    mail.findings = [Finding.from_json(one) for one in mail.row.findings or ()]
    mail.policies = await policies.of(mail.row.org_id, mail.row.rcpt_to)
    _count(mail, mail.policies)


def _count(mail: InHand, policies: Mapping[str, Policy]) -> None:
    strict = strictest(policies.values())
    mail.verdicts += dict.fromkeys(str(strict.verdict(one)) for one in mail.findings)
    mail.scores += [one.score for one in mail.findings if one.score is not None and one.kind is Kind.SPAM]


def facts_of(mail: InHand) -> Facts:
    row = mail.row
    told = row.facts
    return Facts(
        id=str(row.id),
        client_ip=told.get("peer_ip") or (row.source if row.door == "smtp" else None),
        helo=told.get("helo") or "",
        mail_from=row.mail_from,
        rcpt_to=row.rcpt_to,
        size=row.size,
        summary=mail.summary,
        auth=mail.auth,
        received_at=row.created_at,
        hostname=told.get("by") or "",
        client_name=told.get("client_name") or "",
    )


def _pend(mail: InHand, waits_for: Sequence[Finding]) -> None:
    """Said once, however often it is tried."""
    mail.pending = ", ".join(one.scanner for one in waits_for)
    if mail.row.pending is None:
        why = " ".join(f"{one.scanner}: {one.detail}" for one in waits_for)
        mail.decide("scan", "pending", f"It waits until it can be scanned, and goes on by itself then. {why}")


def _tell(
    mail: InHand, new: Sequence[Finding], policies: Collection[Policy], fails_open: frozenset[str] = frozenset()
) -> None:
    strict = strictest(policies)
    for one in new:
        more: dict[str, Any] = {"scanner": one.scanner}
        if one.score is not None:
            more["score"] = one.score
        why = f"{one.scanner}: {one.detail}" if one.detail else f"{one.scanner} says so."
        if one.verdict is Verdict.UNAVAILABLE and one.scanner in fails_open:
            why += " The mail goes on without it: so it is set (fail open)."
        elif one.verdict is Verdict.UNAVAILABLE:
            why += " The mail goes on without it: something else decides."
        verdict = strict.verdict(one)
        what = "not scanned" if verdict in (Verdict.SKIPPED, Verdict.UNAVAILABLE) else str(verdict)
        mail.decide("scan", what, why, **more)


def _act(mail: InHand, policies: Mapping[str, Policy]) -> None:
    """Held for all recipients where one's domain wants that, as DMARC's failures are."""
    for domain, policy in policies.items():
        bad = {one: verdict for one in mail.findings if (verdict := policy.verdict(one)) in (*_BAD, Verdict.INFECTED)}
        infected = next((one for one, verdict in bad.items() if verdict is Verdict.INFECTED), None)
        spam = next((one for one, verdict in bad.items() if verdict in _BAD), None)
        if infected is not None and policy.malware_action != "tag":
            why = f"{infected.scanner} found malware: {', '.join(infected.tags)}."
            mail.hold(infected.scanner, f"{why} {_wants(domain, 'malware_action', policy.malware_action)}")
        elif spam is not None and policy.spam_action in ("quarantine", "reject"):
            why = f"{spam.scanner} says that it is spam. {spam.detail}".rstrip()
            mail.hold(spam.scanner, f"{why} {_wants(domain, 'spam_action', policy.spam_action)}")
        elif spam is not None and policy.spam_action == "junk" and mail.row.released_at is None and not mail.junk:
            mail.junk = True
            mail.decide("scan", "junk", f"{spam.scanner} says that it is spam. {_wants(domain, 'spam_action', 'junk')}")


def refusal(findings: Sequence[Finding], policies: Iterable[Policy]) -> str:
    """Why all of these domains refuse such a mail; empty: one of them takes it."""
    why = ""
    for policy in policies:
        infected = next((one for one in findings if policy.verdict(one) is Verdict.INFECTED), None)
        spam = next((one for one in findings if policy.verdict(one) in _BAD), None)
        if infected is not None and policy.malware_action == "reject":
            why = f"The mail holds malware: {', '.join(infected.tags)}."
        elif spam is not None and infected is None and policy.spam_action == "reject":
            why = "The mail looks like spam. Write to the recipient in another way if it is none."
        else:
            return ""
    return why


def _wants(domain: str, setting: str, action: str) -> str:
    if action == "junk":
        return f"{domain} wants it among its junk ({setting}: junk)."
    if action == "reject":
        return f"{domain} refuses such mail, but it had been taken: it is held ({setting}: reject)."
    return f"{domain} wants such mail held ({setting}: {action})."
