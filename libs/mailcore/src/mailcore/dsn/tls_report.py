"""Reports about TLS (RFC 8460): written as JSON, gzip and mail; read under limits, for anybody may send one.

1. `compose`  the report of a domain's day, from what was counted
2. `packed`   its JSON under gzip, the same octets from the same report; `file_name` for both ways it goes
3. `as_mail`  the message that carries it (§5.3)
4. `read`     a report as it came, gzip or JSON; `in_mail` finds it in a mail
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from email.utils import format_datetime
from typing import Any

import orjson

from mailcore.mime.compose import base64_lines
from mailcore.mime.parse import Message

JSON, GZIP = "application/tlsrpt+json", "application/tlsrpt+gzip"
"""Media types (RFC 8460 §6.4, §6.5)."""
MAX_PACKED = 1_000_000
"""Octets of a report as it comes …"""
MAX_JSON = 3_000_000
"""… and out of its gzip: more is a bomb."""
MAX_POLICIES = 200
MAX_DETAILS = 2_000
"""Of all policies of a report together."""
MAX_TEXT = 500
"""Characters of a text that are kept."""
MAX_SESSIONS = 10**15


# ---- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    policy: Mapping[str, Any]
    """As the report shows it: policy-type, policy-string, policy-domain, mx-host (RFC 8460 §4.4)."""
    failure: Mapping[str, Any] | None
    """result-type, sending-mta-ip, receiving-mx-hostname, receiving-ip, failure-reason-code; None: sessions that were well."""
    sessions: int


def compose(counts: Sequence[Count], *, day: date, organization: str, contact: str, report_id: str) -> dict[str, Any]:
    begins = datetime.combine(day, time(), UTC)
    policies: dict[bytes, dict[str, Any]] = {}
    for count in counts:
        key = orjson.dumps(count.policy, option=orjson.OPT_SORT_KEYS)
        policy = policies.setdefault(
            key,
            {
                "policy": dict(count.policy),
                "summary": {"total-successful-session-count": 0, "total-failure-session-count": 0},
            },
        )
        if count.failure is None:
            policy["summary"]["total-successful-session-count"] += count.sessions
        else:
            policy["summary"]["total-failure-session-count"] += count.sessions
            policy.setdefault("failure-details", []).append({**count.failure, "failed-session-count": count.sessions})
    return {
        "organization-name": organization,
        "date-range": {
            "start-datetime": _moment(begins),
            "end-datetime": _moment(begins + timedelta(days=1) - timedelta(seconds=1)),
        },
        "contact-info": contact,
        "report-id": report_id,
        "policies": list(policies.values()),
    }


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def packed(report: Mapping[str, Any]) -> bytes:
    return gzip.compress(orjson.dumps(report), mtime=0)


def file_name(submitter: str, domain: str, day: date, unique: str) -> str:
    """RFC 8460 §5.1. Times are seconds since 1970."""
    begins = int(datetime.combine(day, time(), UTC).timestamp())
    return f"{submitter}!{domain}!{begins}!{begins + 86_399}!{unique}.json.gz"


@dataclass(frozen=True, slots=True)
class Letter:
    """What the mail around a report says."""

    from_: str
    """An address of `submitter`."""
    to: str
    submitter: str
    """The domain that reports."""
    domain: str
    """That is reported about."""
    day: date
    report_id: str
    message_id: str
    """With angle brackets."""
    at: datetime


def as_mail(letter: Letter, report: bytes) -> bytes:
    """The message (RFC 8460 §5.3): 7-bit, CRLF line ends. `report`: as `packed` gives it."""
    unique = letter.report_id.partition("@")[0]
    boundary = f"=_tlsrpt_{unique}"
    name = file_name(letter.submitter, letter.domain, letter.day, unique)
    head = (
        f"From: <{letter.from_}>",
        f"To: <{letter.to}>",
        f"Date: {format_datetime(letter.at)}",
        f"Subject: Report Domain: {letter.domain}",
        f" Submitter: {letter.submitter}",
        f" Report-ID: <{letter.report_id}>",
        f"Message-ID: {letter.message_id}",
        f"TLS-Report-Domain: {letter.domain}",
        f"TLS-Report-Submitter: {letter.submitter}",
        "TLS-Required: No",  # RFC 8460 §3: it comes through where TLS fails, which is what it tells of; RFC 8689 §5
        "Auto-Submitted: auto-generated",  # RFC 3834 §5
        "MIME-Version: 1.0",
        'Content-Type: multipart/report; report-type="tlsrpt";',
        f' boundary="{boundary}"',
        "",
        "This is a report about TLS with the mail hosts of a domain (RFC 8460).",
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is an aggregate report about TLS between {letter.submitter}",
        f"and the mail hosts of {letter.domain} on {letter.day} (UTC).",
        "It is sent because of the TXT record at",
        f"_smtp._tls.{letter.domain}.",
        "",
        f"--{boundary}",
        f"Content-Type: {GZIP}",
        "Content-Transfer-Encoding: base64",
        "Content-Disposition: attachment;",
        f' filename="{name}"',
        "",
        "",
    )
    return b"".join(
        ("\r\n".join(head).encode("ascii"), base64_lines(report).rstrip(b"\r\n"), f"\r\n--{boundary}--\r\n".encode())
    )


# ---- reading ---------------------------------------------------------------------------------------------------------


class BrokenReport(ValueError):
    """What is wrong with it, in a line, for whoever sent it."""


@dataclass(frozen=True, slots=True)
class Report:
    organization: str
    report_id: str
    begins_at: datetime
    ends_at: datetime
    successful: int
    """Sessions, of all policies."""
    failed: int
    domains: frozenset[str]
    """That its policies are of, in lower case."""
    content: dict[str, Any]
    """The report as it came, cut down to what RFC 8460 §4.4 knows, its texts cut to MAX_TEXT."""


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)\Z")


def read(octets: bytes, media_type: str) -> Report:
    """`media_type`: JSON or GZIP, parameters allowed; others are told by their first octets. Raises BrokenReport."""
    if len(octets) > MAX_PACKED:
        raise BrokenReport(f"a report has at most {MAX_PACKED} octets")
    media_type = media_type.partition(";")[0].strip().lower()
    if media_type == GZIP or (media_type != JSON and octets[:2] == b"\x1f\x8b"):
        octets = _unpack(octets)
    try:
        content = orjson.loads(octets)
    except orjson.JSONDecodeError:
        raise BrokenReport("the report is no JSON") from None
    return _report(content)


def in_mail(message: Message) -> Report | None:
    """The report that a mail carries (§5.3); None: it carries none. Raises BrokenReport."""
    for attachment in message.summary().attachments:
        if attachment.content_type in (JSON, GZIP) and (found := message.attachment(attachment.n)) is not None:
            return read(found[1], attachment.content_type)
    return None


def _unpack(octets: bytes) -> bytes:
    """One gzip member, or several behind each other, up to MAX_JSON octets."""
    out = bytearray()
    rest = octets
    while rest:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            out += unpacker.decompress(rest, MAX_JSON + 1 - len(out))
        except zlib.error:
            raise BrokenReport("the report is no gzip") from None
        if len(out) > MAX_JSON:
            raise BrokenReport(f"the report has more than {MAX_JSON} octets out of its gzip")
        if not unpacker.eof:
            raise BrokenReport("the report's gzip ends early")
        rest = unpacker.unused_data
    return bytes(out)


def _report(content: Any) -> Report:
    if not isinstance(content, dict):
        raise BrokenReport("the report is no JSON object")
    range_ = content.get("date-range")
    if not isinstance(range_, dict):
        raise BrokenReport("the report lacks its date-range")
    begins, ends = (_read_moment(range_.get(f"{which}-datetime")) for which in ("start", "end"))
    if not timedelta() <= ends - begins <= timedelta(days=32):
        raise BrokenReport("the report's date-range is none")
    report_id, organization = _text(content.get("report-id")), _text(content.get("organization-name"))
    if not report_id:
        raise BrokenReport("the report lacks its report-id")
    policies = content.get("policies")
    if not isinstance(policies, list) or len(policies) > MAX_POLICIES:
        raise BrokenReport(f"the report's policies are no list of at most {MAX_POLICIES}")
    room = MAX_DETAILS
    kept: list[dict[str, Any]] = []
    for each in policies:
        policy = _policy(each, room)
        room -= len(policy["failure-details"])
        kept.append(policy)
    return Report(
        organization or "unknown",
        report_id,
        begins,
        ends,
        min(MAX_SESSIONS, sum(each["summary"]["total-successful-session-count"] for each in kept)),
        min(MAX_SESSIONS, sum(each["summary"]["total-failure-session-count"] for each in kept)),
        frozenset(each["policy"]["policy-domain"].lower().removesuffix(".") for each in kept),
        {
            "organization-name": organization,
            "date-range": {"start-datetime": _moment(begins), "end-datetime": _moment(ends)},
            "contact-info": _text(content.get("contact-info")),
            "report-id": report_id,
            "policies": kept,
        },
    )


_DETAIL = (
    *("result-type", "sending-mta-ip", "receiving-mx-hostname", "receiving-mx-helo", "receiving-ip"),
    *("additional-information", "failure-reason-code"),
)


def _policy(each: Any, room: int) -> dict[str, Any]:
    if not isinstance(each, dict) or not isinstance(each.get("policy"), dict):
        raise BrokenReport("a policy of the report is none")
    policy, summary, details = each["policy"], each.get("summary"), each.get("failure-details")
    details = details if isinstance(details, list) else []
    summary = summary if isinstance(summary, dict) else {}
    hosts = policy.get("mx-host")
    return {
        "policy": {
            "policy-type": _text(policy.get("policy-type")),
            "policy-string": _texts(policy.get("policy-string")),
            "policy-domain": _text(policy.get("policy-domain")),
            # the RFC's text says an array, its first example a string
            "mx-host": _texts([hosts] if isinstance(hosts, str) else hosts),
        },
        "summary": {
            name: _count(summary.get(name))
            for name in ("total-successful-session-count", "total-failure-session-count")
        },
        "failure-details": [
            {
                **{name: _text(detail[name]) for name in _DETAIL if detail.get(name) is not None},
                "failed-session-count": _count(detail.get("failed-session-count")),
            }
            for detail in details[:room]
            if isinstance(detail, dict)
        ],
    }


def _text(value: Any) -> str:
    """Postgres takes no NUL in a text."""
    return value[:MAX_TEXT].replace("\0", "") if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return [_text(each) for each in value[:50] if isinstance(each, str)] if isinstance(value, list) else []


def _count(value: Any) -> int:
    return min(value, MAX_SESSIONS) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _read_moment(value: Any) -> datetime:
    """RFC 3339."""
    if not isinstance(value, str) or not _MOMENT.match(value):
        raise BrokenReport("the report's date-range is no pair of RFC 3339 times")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BrokenReport("the report's date-range is no pair of RFC 3339 times") from None
