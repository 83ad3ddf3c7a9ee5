"""What required records, there or not, make of a domain."""

from __future__ import annotations

from typing import Any

import pytest

from mailcore.dns.required import Published, relative_name, required_records
from mailcore.dns.resolver import StaticResolver
from mailcore.dns.suffixes import is_public_suffix, registered_domain
from mailcore.dns.verdict import Verdict, look_up, overall, statuses

PUBLISHED = Published("mx.us.test", "a:mx.us.test", tracking_host="t.us.test", tracking_caa="ca.test")
ALL = ("spf_mx", "spf_txt", "dkim:r", "dkim:e", "receiving_mx")


def domain(**changed: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "name": "example.com",
        "sending": True,
        "receiving": True,
        "custom_return_path": "send",
        "dkim": [{"selector": "r", "public_txt": "p=AA"}, {"selector": "e", "public_txt": "p=BB"}],
        "tracking_subdomain": None,
        "old_tracking": [],
        "record_status": {},
    }
    return {**given, **changed}


@pytest.mark.parametrize(
    ("without", "status", "lacking"),
    [
        ({}, "verified", None),
        (dict.fromkeys(ALL, "pending"), "pending", None),
        (dict.fromkeys(ALL, "failed"), "failed", None),
        (dict.fromkeys(ALL, "temporary_failure"), "verified", None),
        ({"spf_txt": "pending"}, "partially_verified", "sending"),
        ({"spf_txt": "failed"}, "partially_failed", "sending"),
        ({"receiving_mx": "pending"}, "partially_verified", "receiving"),
        ({"receiving_mx": "failed"}, "partially_failed", "receiving"),
        ({"receiving_mx": "temporary_failure"}, "verified", None),
        ({"dkim:e": "pending"}, "pending", None),  # whose it is is not proven
        ({"dkim:r": "failed", "receiving_mx": "pending"}, "failed", None),
    ],
)
def test_overall(without: dict[str, str], status: str, lacking: str | None) -> None:
    wanted = required_records(domain(), PUBLISHED)
    assert tuple(each.key for each in wanted) == ALL
    assert overall(wanted, {**dict.fromkeys(ALL, "verified"), **without}) == Verdict(status, lacking)


@pytest.mark.parametrize(
    ("there", "was", "overdue", "status"),
    [
        (True, None, True, "verified"),
        (True, "failed", False, "verified"),
        (False, None, False, "pending"),
        (False, None, True, "failed"),
        (False, "verified", False, "temporary_failure"),
        (False, "temporary_failure", True, "failed"),
        (False, "failed", True, "failed"),
        (None, None, True, "pending"),
        (None, "verified", True, "temporary_failure"),
        (None, "temporary_failure", True, "temporary_failure"),
        (None, "failed", True, "failed"),
    ],
)
def test_statuses(there: bool | None, was: str | None, overdue: bool, status: str) -> None:
    wanted = required_records(domain(), PUBLISHED)[:1]
    assert statuses(wanted, [there], {} if was is None else {"spf_mx": was}, overdue=overdue) == {"spf_mx": status}


def test_tracking_says_nothing_of_the_domain() -> None:
    row = domain(tracking_subdomain="l", old_tracking=["o"], record_status={"tracking_caa:l": "pending"})
    wanted = required_records(row, PUBLISHED)
    assert [(each.record, each.fqdn, each.type, each.value) for each in wanted[5:]] == [
        ("Tracking", "l.example.com", "CNAME", "t.us.test"),
        ("TrackingCAA", "l.example.com", "CAA", '0 issue "ca.test"'),
        ("Tracking", "o.example.com", "CNAME", "t.us.test"),
    ]
    assert overall(wanted, dict.fromkeys(ALL, "verified")) == Verdict("verified")


@pytest.mark.parametrize(
    ("records", "there"),
    [
        ({"send.example.com": {"TXT": ["v=spf1 a:mx.us.test ~all"]}}, True),
        ({"send.example.com": {"TXT": ["V=SPF1 +A:MX.us.test -all"]}}, True),
        ({"send.example.com": {"TXT": ["v=spf1 include:x.test A:mx.us.test -all", "another=1"]}}, True),
        ({"send.example.com": {"TXT": ["v=spf1 -a:mx.us.test -all"]}}, False),
        ({"send.example.com": {"TXT": ["v=spf10 a:mx.us.test -all"]}}, False),
        ({"send.example.com": {"TXT": ["v=spf1 a:mx.us.test.evil.test -all"]}}, False),
        ({"send.example.com": {"TXT": ["v=spf1 a:mx.us.test", "v=spf1 a:mx.us.test"]}}, False),
        ({}, False),
    ],
)
async def test_the_spf_record(records: dict[str, Any], there: bool) -> None:
    wanted = required_records(domain(), PUBLISHED)[1]
    assert await look_up(wanted, StaticResolver(records)) is there


async def test_an_spf_record_of_several_mechanisms() -> None:
    several = Published("mx.us.test", "include:a.test ip4:192.0.2.0/24")
    wanted = required_records(domain(), several)[1]
    assert wanted.value == "v=spf1 include:a.test ip4:192.0.2.0/24 ~all"
    for text, there in (("v=spf1 ip4:192.0.2.0/24 include:a.test -all", True), ("v=spf1 include:a.test -all", False)):
        assert await look_up(wanted, StaticResolver({"send.example.com": {"TXT": [text]}})) is there


def test_names_as_a_panel_wants_them() -> None:
    names = {
        "example.com": "@",
        "send.example.com": "send",
        "send.a.example.co.uk": "send.a",
        "r._domainkey.example.com.br": "r._domainkey",
        "send.name.github.io": "send.name",  # GitHub's zone, whatever it lets others name in it
        "com": "@",
    }
    assert {name: relative_name(name) for name in names} == names


def test_public_suffixes() -> None:
    assert [
        name for name in ("com", "co.uk", "example.com", "xn--55qx5d.cn", "github.io") if is_public_suffix(name)
    ] == [
        "com",
        "co.uk",
        "xn--55qx5d.cn",
    ]
    assert registered_domain("a.b.example.co.uk") == "example.co.uk"
    assert registered_domain("send.postroom.test") == "postroom.test", "a TLD that nobody knows is one"
