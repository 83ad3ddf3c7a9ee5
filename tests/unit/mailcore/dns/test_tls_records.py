"""TLSA, MTA-STS and TLSRPT: what the records and policies say, and what is taken for nothing."""

from __future__ import annotations

import hashlib

import pytest

from mailcore.dns import mta_sts, tls_rpt
from mailcore.dns.mta_sts import BrokenPolicy, StsPolicy, read_policy
from mailcore.dns.resolver import DnsResolver, StaticResolver, TemporaryDNSError, TlsaRecord
from mailcore.dns.tlsa import matches, tlsa_of, usable

KEY, CERTIFICATE = b"the key", b"the certificate"
EE = f"3 1 1 {hashlib.sha256(KEY).hexdigest()}"


def record(usage: int, selector: int, matching: int, octets: int | bytes) -> TlsaRecord:
    return TlsaRecord(usage, selector, matching, octets if isinstance(octets, bytes) else b"\1" * octets)


def test_records_that_smtp_can_check() -> None:
    good = [record(3, 1, 1, 32), record(2, 0, 2, 64), record(3, 0, 0, 5)]
    of_no_use = [
        *(record(usage, 1, 1, 32) for usage in (0, 1, 4, 255)),  # RFC 7672 §3.1.3
        *(record(3, 2, 1, 32), record(3, 1, 3, 32)),
        *(record(3, 1, 1, 31), record(3, 1, 2, 32), record(3, 1, 0, 0)),
    ]
    assert usable([*of_no_use, *good]) == tuple(good)
    assert usable(of_no_use) == ()


def test_of_several_digests_the_strongest_counts() -> None:
    """RFC 7671 §9, by usage and selector; whole keys always count."""
    weak, strong, other, whole = record(3, 1, 1, 32), record(3, 1, 2, 64), record(2, 1, 1, 32), record(3, 1, 0, 9)
    assert usable([weak, strong, other, whole]) == (strong, other, whole)


@pytest.mark.parametrize(
    ("given", "stands"),
    [
        (record(3, 1, 0, KEY), True),
        (record(3, 0, 0, CERTIFICATE), True),
        (record(3, 1, 1, hashlib.sha256(KEY).digest()), True),
        (record(3, 0, 2, hashlib.sha512(CERTIFICATE).digest()), True),
        (record(3, 0, 1, hashlib.sha256(KEY).digest()), False),
        (record(3, 1, 2, hashlib.sha256(KEY).digest()), False),
    ],
)
def test_what_a_record_stands_for(given: TlsaRecord, stands: bool) -> None:
    assert matches(given, CERTIFICATE, KEY) is stands


async def test_records_count_where_all_on_the_way_was_validated() -> None:
    zones = {
        "mx.safe.example": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
        "_25._tcp.mx.safe.example": {"TLSA": [EE]},
        "mx.plain.example": {"A": ["192.0.2.1"]},
        "_25._tcp.mx.plain.example": {"TLSA": [EE]},
        "alias.safe.example": {"CNAME": ["mx.safe.example."]},
        "out.safe.example": {"CNAME": ["mx.plain.example."]},
        "_25._tcp.out.safe.example": {"TLSA": [EE]},
        "none.safe.example": {"A": ["192.0.2.1"]},
        "sick.safe.example": {"A": ["192.0.2.1"]},
    }
    resolver = StaticResolver(zones, signed=["safe.example"], failing=["_25._tcp.sick.safe.example"])

    async def base(host: str) -> str | None:
        found = await tlsa_of(host, 25, resolver)
        return found and found.base

    assert await base("mx.safe.example") == "mx.safe.example"
    assert await base("mx.plain.example") is None
    assert not [asked for asked in resolver.asked if asked[0].startswith("_25._tcp.mx.plain")], "not even asked for"
    assert await base("alias.safe.example") == "mx.safe.example", "where the alias leads (RFC 7672 §2.2.2)"
    assert await base("out.safe.example") == "out.safe.example", "the signed alias itself"
    assert await base("none.safe.example") is None
    assert await base("missing.safe.example") is None
    assert await tlsa_of("mx.safe.example", 2525, resolver) is None, "of another port"
    with pytest.raises(TemporaryDNSError):
        await base("sick.safe.example")


@pytest.mark.parametrize(
    ("nameservers", "trusted"),
    [
        (["127.0.0.1:53"], True),
        (["[::1]:53", "127.0.0.53"], True),
        (["127.0.0.1", "192.0.2.1"], False),
        (["127.0.0.11"], False),  # Docker's passes on what others say
    ],
)
def test_whose_word_about_dnssec_is_taken(nameservers: list[str], trusted: bool) -> None:
    assert DnsResolver(nameservers).trusts_ad is trusted
    assert DnsResolver(nameservers, trust_ad=not trusted).trusts_ad is not trusted


# ---- MTA-STS ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "id_"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["something else", "v=STSv1;id=1;x=y"], "1"),
        (["v=STSv1; id=1", "v=STSv1; id=2"], None),
        (["v=STSv2; id=1"], None),
        (["v=STSv1; id="], None),
        (["v=STSv1; id=a-b"], None),
        (["v=STSv1; id=" + "1" * 33], None),
        (["V=STSv1; id=1"], None),
        ([], None),
    ],
)
def test_the_record(texts: list[str], id_: str | None) -> None:
    assert mta_sts.read_record(texts) == id_


def test_the_policy() -> None:
    """RFC 8461 §3.2: unknown fields are left out, of repeated ones the first counts, LF alone ends a line too."""
    text = b"version: STSv1\nmode: enforce\r\nmode: none\nmx: MX1.example.com\nmx: *.example.net\nx-new: 1\nmax_age: 604800\n\n"
    policy = read_policy(text)
    assert policy == StsPolicy("enforce", ("mx1.example.com", "*.example.net"), 604_800)
    assert read_policy(policy.text.encode()) == policy
    assert read_policy(b"version: STSv1\nmode: none\nmax_age: 99999999999"[:-1]).max_age == mta_sts.MAX_AGE
    assert policy.id != StsPolicy("testing", policy.mx, policy.max_age).id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "version"),
        (b"version: STSv2\nmode: none\nmax_age: 1", "version"),
        (b"version: STSv1\nmode: strict\nmx: a.b\nmax_age: 1", "mode"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1", "no mx"),
        (b"version: STSv1\nmode: enforce\nmx: a.b\nmax_age: -1", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: a.b\nmax_age: 12345678901", "max_age"),
        (b"version: STSv1\nmode: enforce\nmx: *.*.b\nmax_age: 1", "no host"),
        (b"version: STSv1\nmode: enforce\nmx: 192.0.2.1\nmax_age: 1", "no host"),
        (b"<html>", "no field"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1" + b"\nmx: a.b" * 101, "more than 100"),
        (b"x: " + b"\xff", "UTF-8"),
        (b" " * 70_000, "octets"),
    ],
)
def test_what_is_no_policy(text: bytes, words: str) -> None:
    with pytest.raises(BrokenPolicy, match=words):
        read_policy(text)


def test_hosts_that_a_policy_covers() -> None:
    policy = StsPolicy("enforce", ("mx1.example.com", "*.example.net"), 1)
    assert [host for host in ("mx1.example.com", "MX1.Example.COM.", "a.example.net") if not policy.covers(host)] == []
    not_covered = ("mx2.example.com", "a.mx1.example.com", "example.net", "a.b.example.net", "net", "xexample.net")
    assert [host for host in not_covered if policy.covers(host)] == []


# ---- TLSRPT ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "uris"),
    [
        (["v=TLSRPTv1; rua=mailto:a@b.example"], ("mailto:a@b.example",)),
        (["v=TLSRPTv1;rua=https://b.example/x , mailto:a@b.example;"], ("https://b.example/x", "mailto:a@b.example")),
        (["v=TLSRPTv1; rua=http://b.example/x,ftp://b.example"], ()),
        (["v=TLSRPTv1; rua=mailto:a@b.example", "v=TLSRPTv1; rua=mailto:c@b.example"], ()),
        (["v=TLSRPTv1;"], ()),
        (["v=spf1 -all"], ()),
    ],
)
def test_where_reports_are_wanted(texts: list[str], uris: tuple[str, ...]) -> None:
    assert tls_rpt.read_record(texts) == uris


def test_addresses_of_mailto() -> None:
    assert tls_rpt.mail_address("mailto:tls%2Brpt@b.example?subject=x") == "tls+rpt@b.example"
    assert tls_rpt.mail_address("https://b.example") is None
