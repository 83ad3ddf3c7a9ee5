"""How mail that is passed on says what was thought of it: which fields, whether its subject is tagged, for one recipient.

    marks = marks_of(mail, recipient)                      by what scanners found, and what the recipient's domain wants
    raw = marks.head.encode() + unmarked(raw, marks)

Forwards and relays carry it in front (flow.passed_on), posted mail in `Headers` and in its raw form. What is kept here stays as it
came: there `arrivals.findings` says the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailcore.flow.in_hand import InHand
from mailcore.flow.scan_policy import Policy
from mailcore.mime import marks as fields
from mailcore.scanners.base import Finding, Kind, Verdict

_WORST_FIRST = (
    *(Verdict.INFECTED, Verdict.SPAM, Verdict.LISTED, Verdict.UNSURE, Verdict.CLEAN, Verdict.UNAVAILABLE),
    Verdict.SKIPPED,
)
SPAM_SCORE = "spam_score"
"""The reason of what is spam by points alone."""


@dataclass(frozen=True, slots=True)
class Marks:
    head: str = ""
    """Fields, each with its CRLF. ASCII. Empty: no scanner is on."""
    tag: str = ""
    """Of the subject; empty: none."""
    others: bool = False
    """A sender's own copies of fields that are not only ours go, too (mime.marks.OTHERS)."""

    def as_json(self) -> dict[str, Any]:
        return {"head": self.head, "tag": self.tag, "others": self.others}


def marks_of(mail: InHand, recipient: str, *, relayed: bool = False) -> Marks:
    """`relayed`: it goes to another server of its own organization, which may sort by the fields of others."""
    if not mail.findings:
        return Marks()
    policy = mail.policies[recipient.rpartition("@")[2].lower()]
    verdict = verdict_of(mail.findings, policy)
    wants_tag = verdict.is_spam and mail.row.released_at is None  # what somebody has let out is not accused again
    head = fields.marks(verdict, compatible=policy.compatible_headers, scl=policy.scl)
    return Marks(head, policy.subject_tag or "" if wants_tag else "", relayed or policy.compatible_headers)


def marks_from(told: Mapping[str, Any] | None) -> Marks:
    """As `as_json` told it."""
    return Marks(**told) if told else Marks()


def unmarked(raw: bytes, marks: Marks) -> bytes:
    """Without what only we may say, the tag in its subject; where there is nothing to do, the very same object."""
    raw = fields.without_marks(raw, others=marks.others)
    return fields.tagged(raw, marks.tag) if marks.tag else raw


def verdict_of(findings: Sequence[Finding], policy: Policy) -> fields.Verdict:
    """What several scanners say, as one: the worst of it, and why."""
    said = [(policy.verdict(one), one) for one in findings]
    what = min((verdict for verdict, _ in said), key=_WORST_FIRST.index)
    points = next((one.score for _, one in said if one.kind is Kind.SPAM and one.score is not None), None)
    opinion = next(
        (one for _, one in said if one.kind is Kind.OPINION and one.verdict is not Verdict.UNAVAILABLE), None
    )
    return fields.Verdict(
        what.value,
        reason=_reason(what, [one for verdict, one in said if verdict is what], opinion),
        score=points,
        probability=None if opinion is None or opinion.score is None else round(opinion.score),
        confirmed=opinion is not None and opinion.verdict is Verdict.SPAM,
        scanners=tuple(one.scanner for verdict, one in said if verdict is not Verdict.UNAVAILABLE),
    )


def _reason(what: Verdict, those: Sequence[Finding], opinion: Finding | None) -> str:
    """`those`: who said it."""
    if what is Verdict.INFECTED:
        return "malware"
    if what not in (Verdict.SPAM, Verdict.LISTED):
        return "not_spam"
    named = next((one.reason for one in those if one.reason and one.kind is not Kind.OPINION), "")
    if not named and opinion is not None and opinion.verdict is Verdict.SPAM:
        named = opinion.reason
    return named or (SPAM_SCORE if any(one.score is not None for one in those) else "spam")
