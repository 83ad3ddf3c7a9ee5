"""Whatever somebody sends as a policy, a record, a report or a certificate: an answer or the one error that says why not."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.dns import mta_sts, tls_rpt
from mailcore.dns.mta_sts import BrokenPolicy, read_policy
from mailcore.dns.resolver import TlsaRecord
from mailcore.dns.tlsa import usable
from mailcore.dsn.tls_report import GZIP, JSON, BrokenReport, Report, read
from mailcore.transport.tls import Insecure, Kind, Security, check_dane

ROUNDS = settings(max_examples=150, deadline=None)
KEYS = (
    *(
        "organization-name",
        "date-range",
        "start-datetime",
        "end-datetime",
        "report-id",
        "policies",
        "policy",
        "summary",
    ),
    *("policy-domain", "policy-string", "mx-host", "failure-details", "failed-session-count"),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just("2026-01-01T00:00:00Z"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
GOOD = {
    "report-id": "1",
    "date-range": {"start-datetime": "2026-01-01T00:00:00Z", "end-datetime": "2026-01-01T23:59:59Z"},
}


@ROUNDS
@given(
    st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"version: STSv1\n{text}".encode(errors="replace"))
)
def test_policies(octets: bytes) -> None:
    try:
        policy = read_policy(octets)
    except BrokenPolicy:
        return
    assert read_policy(policy.text.encode()) == policy


@ROUNDS
@given(st.lists(st.text(max_size=80).map(lambda text: f"v=STSv1;{text}") | st.text(max_size=80), max_size=3))
def test_records(texts: list[str]) -> None:
    id_ = mta_sts.read_record(texts)
    assert id_ is None or id_.isalnum()
    for uri in tls_rpt.read_record([text.replace("STSv1", "TLSRPTv1") for text in texts]):
        assert uri.lower().startswith(("mailto:", "https:"))


@ROUNDS
@given(st.binary(max_size=300), st.sampled_from([JSON, GZIP, "", "text/plain"]))
def test_octets_as_reports(octets: bytes, kind: str) -> None:
    for each in (octets, gzip.compress(octets)):
        try:
            read(each, kind)
        except BrokenReport as error:
            assert str(error)


@ROUNDS
@given(VALUES, VALUES)
def test_json_as_reports(anything: Any, policies: Any) -> None:
    for value in (
        anything,
        {**GOOD, "policies": policies},
        {**GOOD, "policies": [{"policy": policies, "summary": anything}]},
    ):
        try:
            octets = orjson.dumps(value)
        except TypeError:  # an integer beyond 64 bits
            continue
        try:
            report = read(octets, JSON)
        except BrokenReport:
            continue
        _storable(report)


def _storable(report: Report) -> None:
    assert "\\u0000" not in orjson.dumps(report.content).decode().replace("\\\\", "")
    assert 0 <= report.successful < 2**63
    assert 0 <= report.failed < 2**63


@ROUNDS
@given(
    st.lists(st.builds(TlsaRecord, *[st.integers(0, 4)] * 3, st.binary(max_size=64)), max_size=4),
    st.lists(st.binary(max_size=60), max_size=3),
)
def test_certificates(records: list[TlsaRecord], chain: list[bytes]) -> None:
    security = Security(Kind.DANE, usable(records), ("mx.example.com",))
    try:
        check_dane(security, chain, datetime.now(UTC))
    except Insecure as error:
        assert error.rule == "dane-failed"
    else:
        raise AssertionError("nothing of this is a certificate")
