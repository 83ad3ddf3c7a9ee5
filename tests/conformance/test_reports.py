"""Delivery reports, complaints and DMARC reports of others: what each says, whom it is about, whether it is for good. Agreement is
printed (-rP).

The suites are read where they are, beside the checkout (POSTROOM_SUITES).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import suites
from mailcore.dsn import dmarc_report, feedback
from mailcore.dsn.parse import parse
from mailcore.dsn.report import Action
from mailcore.mime.parse import Message

RIGHT_RECIPIENT = 0.98
RIGHT_HARDNESS = 0.97

DIFFERENT = {
    "simple_42.txt": "the recipient is blacked out to `david...@gmail.com`; the suite's expectation is of one of its readers only, "
    "and that is none. The report's fields name him, and so do we",
    "yale_01.txt": "a name without a domain; the suite knows that Yale had two, we take the reporter's host",
}
"""Where we see a report otherwise than the suite, and why; in practice the return path names the recipient (dsn.verp)."""


@dataclass(frozen=True)
class Case:
    path: Path
    addresses: frozenset[str]
    temporary: bool


def _cases() -> Iterator[Case]:
    folder = suites.suite("flufl-bounce")
    addresses: dict[str, set[str]] = {}
    temporary: dict[str, bool] = {}
    for row in json.loads((folder / "expected_raw.json").read_text()):
        addresses.setdefault(row["file"], set()).update(address.lower() for address in row["addresses"])
        if row["addresses"]:
            temporary[row["file"]] = row["line"].endswith(", True)")
    for name in sorted(addresses):
        yield Case(folder / "data" / name, frozenset(addresses[name]), temporary.get(name, False))


def test_whom_reports_are_about_and_whether_for_good() -> None:
    cases = list(_cases())
    assert len(cases) > 100
    wrong_recipient: list[str] = []
    wrong_hardness: list[str] = []
    for case in cases:
        report = parse(case.path.read_bytes())
        told = [one for one in report.recipients if one.action in (Action.FAILED, Action.DELAYED)] if report else []
        # whom the mail was sent to, and with it the address that it became on its way
        sent_to = {one.address.lower() for one in told}
        if case.addresses not in (sent_to, sent_to | {one.final.lower() for one in told}):
            wrong_recipient.append(case.path.name)
            print(
                f"{case.path.name}: read {sorted(sent_to)}, expected {sorted(case.addresses)}: {DIFFERENT.get(case.path.name)}"
            )
        if case.addresses and {one.permanent for one in told} != {not case.temporary}:
            wrong_hardness.append(case.path.name)
    named = sum(bool(case.addresses) for case in cases)
    print(f"right recipient: {len(cases) - len(wrong_recipient)} of {len(cases)}")
    print(f"right hard or soft: {named - len(wrong_hardness)} of {named}")
    assert set(wrong_recipient) <= DIFFERENT.keys()
    assert len(wrong_recipient) <= (1 - RIGHT_RECIPIENT) * len(cases)
    assert len(wrong_hardness) <= (1 - RIGHT_HARDNESS) * named


_KINDS = {
    "Abuse": "abuse",
    "AuthFailure": "auth-failure",
    "Fraud": "fraud",
    "NotSpam": "not-spam",
    "Virus": "virus",
    "Other": "other",
}
_FAILURES = {"Unspecified": None, "BodyHash": "bodyhash", "Dmarc": "dmarc", "Spf": "spf", "Signature": "signature"}


def _address(text: str | None) -> str | None:
    return None if text is None else text.strip("<>")


def _folded(texts: list[str]) -> list[str]:
    return [" ".join(text.split()) for text in texts]


def test_complaints_say_what_they_say_to_others() -> None:
    """Every field of the suite that a reader of ours has; its canonicalized body is RFC 6591's, for DKIM's debugging."""
    files = sorted((suites.suite("mail-auth") / "arf").glob("*.eml"))
    assert len(files) >= 5
    compared = 0
    for path in files:
        expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        report = feedback.parse(path.read_bytes())
        assert report is not None
        arrived = expected["arrival_date"]
        pairs: dict[str, tuple[object, object]] = {
            "feedback_type": (report.kind, _KINDS[expected["feedback_type"]]),
            "arrival_date": (report.arrived_at, None if arrived is None else datetime.fromtimestamp(arrived, UTC)),
            "authentication_results": (
                _folded(list(report.authentication_results)),
                _folded(expected["authentication_results"]),
            ),
            "incidents": (report.incidents, expected["incidents"]),
            "original_envelope_id": (report.envelope_id, expected["original_envelope_id"]),
            "original_mail_from": (report.mail_from, _address(expected["original_mail_from"])),
            "original_rcpt_to": ((report.rcpt_to or (None,))[0], _address(expected["original_rcpt_to"])),
            "reported_domain": (list(report.reported_domain), expected["reported_domain"]),
            "reported_uri": (list(report.reported_uri), expected["reported_uri"]),
            "reporting_mta": (report.reporting_mta, expected["reporting_mta"]),
            "source_ip": (report.source_ip, expected["source_ip"]),
            "user_agent": (report.user_agent, expected["user_agent"]),
            "version": (report.version, str(expected["version"])),
            "auth_failure": (report.auth_failure, _FAILURES[expected["auth_failure"]]),
            "dkim_domain": (report.dkim_domain, expected["dkim_domain"]),
            "dkim_identity": (report.dkim_identity, expected["dkim_identity"]),
            "dkim_selector": (report.dkim_selector, expected["dkim_selector"]),
        }
        for name, (ours, theirs) in pairs.items():
            assert ours == theirs, f"{path.name}: {name}"
        compared += len(pairs)
    print(f"ARF: {compared} fields of {len(files)} reports agree")


def test_dmarc_reports_say_what_they_say_to_others() -> None:
    """Large receivers' own reports, plain and packed in their mails: every field that a reader of ours has."""
    files = sorted((suites.suite("mail-auth") / "dmarc-feedback").glob("*.[ex]ml"))
    assert len(files) >= 10
    compared = 0
    for path in files:
        expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        if path.suffix == ".eml":
            message = Message(path.read_bytes())
            assert dmarc_report.may_hold(message.summary()), path.name
            (found,) = dmarc_report.in_mail(message)
        else:
            found = dmarc_report.read(path.read_bytes())
        assert isinstance(found, dmarc_report.Report), path.name
        about, policy = expected["report_metadata"], expected["policy_published"]
        pairs: dict[str, tuple[object, object]] = {
            "org_name": (found.organization, about["org_name"]),
            "email": (found.contact, about["email"]),
            "report_id": (found.report_id, about["report_id"]),
            "begin": (found.begins_at.timestamp(), about["date_range"]["begin"]),
            "end": (found.ends_at.timestamp(), about["date_range"]["end"]),
            "domain": (found.domain, policy["domain"]),
            "p": (found.policy.get("p"), policy["p"].lower()),
            "messages": (found.messages, sum(each["row"]["count"] for each in expected["record"])),
        }
        theirs = sorted(map(_record, expected["record"]))
        ours = sorted(
            (
                *(row.source_ip, row.messages, row.disposition, row.dkim, row.spf, row.header_from, row.envelope_from),
                str([(each.get("domain"), each.get("selector", ""), each["result"]) for each in row.results["dkim"]]),
                str([(each.get("domain"), each["result"]) for each in row.results["spf"]]),
            )
            for row in found.rows
        )
        pairs["records"] = (ours, theirs)
        for name, (our, their) in pairs.items():
            assert our == their, f"{path.name}: {name}"
        compared += len(pairs) - 1 + 9 * len(theirs)
    print(f"DMARC: {compared} fields of {len(files)} reports agree")


def _record(record: dict[str, Any]) -> tuple[Any, ...]:
    row, who, results = record["row"], record["identifiers"], record["auth_results"]
    verdict = row["policy_evaluated"]
    disposition = verdict["disposition"].lower()
    return (
        *(row["source_ip"], row["count"], disposition if disposition in ("quarantine", "reject") else "none"),
        *(verdict["dkim"] == "Pass", verdict["spf"] == "Pass", who["header_from"], who["envelope_from"] or ""),
        str([(each["domain"], each["selector"] or "", each["result"].lower()) for each in results["dkim"]]),
        str([(each["domain"], each["result"].lower()) for each in results["spf"]]),
    )
