"""TLS reports: what is written can be read, and what anybody may send is read under limits."""

from __future__ import annotations

import email
import gzip
import zlib
from datetime import UTC, date, datetime
from typing import Any

import orjson
import pytest

from mailcore.dsn import tls_report
from mailcore.dsn.tls_report import GZIP, JSON, BrokenReport, Count, Letter, read
from mailcore.mime.compose import is_7bit
from mailcore.mime.parse import Message

DAY = date(2026, 3, 1)
STS = {
    "policy-type": "sts",
    "policy-string": ["version: STSv1", "mode: testing", "mx: mx.b.example", "max_age: 86400"],
    "policy-domain": "b.example",
    "mx-host": ["mx.b.example"],
}
EXPIRED = {"result-type": "certificate-expired", "receiving-mx-hostname": "mx.b.example", "receiving-ip": "192.0.2.1"}
# RFC 8460 Appendix B, as it stands there
SAMPLE = b"""{"organization-name": "Company-X", "date-range": {"start-datetime": "2016-04-01T00:00:00Z",
"end-datetime": "2016-04-01T23:59:59Z"}, "contact-info": "sts-reporting@company-x.example",
"report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be", "policies": [{"policy": {"policy-type": "sts",
"policy-string": ["version: STSv1","mode: testing", "mx: *.mail.company-y.example","max_age: 86400"],
"policy-domain": "company-y.example", "mx-host": "*.mail.company-y.example"},
"summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
"failure-details": [{"result-type": "certificate-expired", "sending-mta-ip": "2001:db8:abcd:0012::1",
"receiving-mx-hostname": "mx1.mail.company-y.example", "failed-session-count": 100},
{"result-type": "starttls-not-supported", "sending-mta-ip": "2001:db8:abcd:0013::1",
"receiving-mx-hostname": "mx2.mail.company-y.example", "receiving-ip": "203.0.113.56", "failed-session-count": 200,
"additional-information": "https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported"},
{"result-type": "validation-failure", "sending-mta-ip": "198.51.100.62", "receiving-ip": "203.0.113.58",
"receiving-mx-hostname": "mx-backup.mail.company-y.example", "failed-session-count": 3,
"failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"}]}]}"""


def composed() -> dict[str, Any]:
    counts = [Count(STS, None, 7), Count(STS, EXPIRED, 2), Count({**STS, "policy-type": "tlsa"}, None, 1)]
    return tls_report.compose(
        counts, day=DAY, organization="A", contact="tls@a.example", report_id="2026-03-01.1@a.example"
    )


def test_what_is_written_can_be_read() -> None:
    report = read(tls_report.packed(composed()), GZIP)
    assert (report.organization, report.report_id) == ("A", "2026-03-01.1@a.example")
    assert (report.begins_at, report.ends_at) == (
        datetime(2026, 3, 1, tzinfo=UTC),
        datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC),
    )
    assert (report.successful, report.failed, report.domains) == (8, 2, {"b.example"})
    first, second = report.content["policies"]
    assert first["policy"] == STS
    assert first["failure-details"] == [{**EXPIRED, "failed-session-count": 2}]
    assert second["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": 0}


def test_the_sample_of_the_rfc() -> None:
    report = read(SAMPLE, JSON)
    assert (report.successful, report.failed, report.domains) == (5326, 303, {"company-y.example"})
    (policy,) = report.content["policies"]
    assert policy["policy"]["mx-host"] == ["*.mail.company-y.example"]
    assert [each["failed-session-count"] for each in policy["failure-details"]] == [100, 200, 3]


def test_the_mail_around_it() -> None:
    packed = tls_report.packed(composed())
    at = datetime(2026, 3, 2, 1, tzinfo=UTC)
    letter = Letter("tls@a.example", "r@b.example", "a.example", "b.example", DAY, "x.1@a.example", "<m@a.example>", at)
    octets = tls_report.as_mail(letter, packed)
    assert is_7bit(octets)
    message = email.message_from_bytes(octets)
    assert (message["TLS-Report-Domain"], message["TLS-Report-Submitter"]) == ("b.example", "a.example")
    assert message["TLS-Required"] == "No"
    subject = "Report Domain: b.example Submitter: a.example Report-ID: <x.1@a.example>"
    assert " ".join(message["Subject"].split()) == subject
    assert (message.get_content_type(), message.get_param("report-type")) == ("multipart/report", "tlsrpt")
    _, part = message.get_payload()  # type: ignore[misc]
    assert part.get_content_type() == GZIP  # type: ignore[union-attr]
    assert part.get_filename() == "a.example!b.example!1772323200!1772409599!x.1.json.gz"  # type: ignore[union-attr]
    assert part.get_payload(decode=True) == packed  # type: ignore[union-attr]
    found = tls_report.in_mail(Message(octets))
    assert found is not None
    assert (found.report_id, found.successful) == ("2026-03-01.1@a.example", 8)
    assert tls_report.in_mail(Message(b"Subject: x\r\n\r\nno report\r\n")) is None


@pytest.mark.parametrize(
    ("octets", "kind", "words"),
    [
        (b"{", JSON, "no JSON"),
        (b"[]", JSON, "no JSON object"),
        (b"{}", JSON, "date-range"),
        (b"not gzip", GZIP, "no gzip"),
        (gzip.compress(SAMPLE)[:-20], GZIP, "ends early"),
        (b"x" * 1_000_001, JSON, "at most"),
        (b"[" * 500_000, JSON, "no JSON"),
        (SAMPLE.replace(b'"report-id"', b'"report"'), JSON, "report-id"),
        (SAMPLE.replace(b"2016-04-01T00", b"2016-13-01T00"), JSON, "RFC 3339"),
        (SAMPLE.replace(b"2016-04-01T23", b"2017-04-01T23"), JSON, "date-range"),
        (SAMPLE.replace(b'"policies": [', b'"policies": [1,'), JSON, "a policy"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_report(octets: bytes, kind: str, words: str) -> None:
    with pytest.raises(BrokenReport, match=words):
        read(octets, kind)


def test_c5_a_bomb_is_not_unpacked() -> None:
    """A gigabyte of zeros is a megabyte of gzip; members behind each other count together."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\0" * 1_000_000) for _ in range(400)) + packer.flush()
    assert len(bomb) < tls_report.MAX_PACKED
    with pytest.raises(BrokenReport, match="out of its gzip"):
        read(bomb, GZIP)
    with pytest.raises(BrokenReport, match="out of its gzip"):
        read(gzip.compress(b" " * 2_000_000) * 2, GZIP)


def test_what_is_kept_is_bounded() -> None:
    report = orjson.loads(SAMPLE)
    report["organization-name"] = "x" * 10_000
    report["unknown"] = "y"
    policy = report["policies"][0]
    policy["summary"]["total-failure-session-count"] = -5
    policy["summary"]["total-successful-session-count"] = "many"
    policy["failure-details"] = [{"result-type": "a\0b", "failed-session-count": True}] * 3_000
    kept = read(orjson.dumps(report), JSON)
    assert (len(kept.organization), kept.failed, kept.successful) == (tls_report.MAX_TEXT, 0, 0)
    assert len(kept.content["policies"][0]["failure-details"]) == tls_report.MAX_DETAILS
    assert kept.content["policies"][0]["failure-details"][0] == {"result-type": "ab", "failed-session-count": 0}
    assert "unknown" not in kept.content
