"""Up the DNS tree: where an organization begins, and whose policy counts (RFC 9989 §4.10; reliability B9)."""

from __future__ import annotations

import pytest

from mailcore.dns.resolver import StaticResolver, TemporaryDNSError
from mailcore.mailauth.dmarc.record import PREFIX
from mailcore.mailauth.dmarc.walk import MAX_QUERIES, steps, takes_reports, walk


def published(**records: str) -> StaticResolver:
    """`example_com="p=none"`."""
    return StaticResolver(
        {PREFIX + name.replace("_", "."): {"TXT": [f"v=DMARC1; {text}"]} for name, text in records.items()}
    )


def test_b9_at_most_eight_questions_however_long_the_name() -> None:
    assert steps("example.com") == ["example.com", "com"]
    assert steps("a.b.c.d.e.f.g.h.i.j.mail.example.com") == [
        "a.b.c.d.e.f.g.h.i.j.mail.example.com",
        *("g.h.i.j.mail.example.com", "h.i.j.mail.example.com", "i.j.mail.example.com", "j.mail.example.com"),
        *("mail.example.com", "example.com", "com"),
    ]
    for labels in range(1, 60):
        found = steps(".".join(["x"] * labels))
        assert len(found) == len(set(found)) == min(labels, MAX_QUERIES)


@pytest.mark.parametrize(
    ("records", "domain", "organization", "policy"),
    [
        ({}, "a.example.com", "a.example.com", None),
        ({"example_com": "p=none"}, "example.com", "example.com", "example.com"),
        ({"example_com": "p=none"}, "a.b.example.com", "example.com", "example.com"),
        # the one with the fewest labels is the organization's, the domain's own policy counts all the same
        (
            {"mail_example_com": "p=none", "example_com": "p=reject"},
            "mail.example.com",
            "example.com",
            "mail.example.com",
        ),
        # one between is nobody's
        ({"mail_example_com": "p=none", "example_com": "p=reject"}, "a.mail.example.com", "example.com", "example.com"),
        # psd=n: the organization begins here
        (
            {"mail_example_com": "psd=n", "example_com": "p=reject"},
            "a.mail.example.com",
            "mail.example.com",
            "mail.example.com",
        ),
        (
            {"mail_example_com": "psd=n", "example_com": "p=reject"},
            "mail.example.com",
            "mail.example.com",
            "mail.example.com",
        ),
        # psd=y: it begins one below, whether that one publishes or not
        ({"bank": "p=reject; psd=y"}, "a.b.bank", "b.bank", "bank"),
        ({"bank": "p=reject; psd=y", "b_bank": "p=none"}, "a.b.bank", "b.bank", "b.bank"),
        ({"co_uk": "psd=y; p=reject", "uk": "psd=y"}, "x.co.uk", "x.co.uk", "co.uk"),
        # mail of a public suffix itself
        ({"bank": "p=reject; psd=y"}, "bank", "bank", "bank"),
        # a top level domain that publishes and does not say what it is counts as any name does
        ({"com": "p=none", "example_com": "p=reject"}, "example.com", "com", "example.com"),
    ],
)
async def test_b9_tree_walk(records: dict[str, str], domain: str, organization: str, policy: str | None) -> None:
    found = await walk(domain, published(**records))
    assert found.organization == organization
    assert (found.policy[0] if found.policy else None) == policy


async def test_a_walk_ends_at_psd() -> None:
    resolver = published(b_example_com="psd=n")
    await walk("a.b.example.com", resolver)
    assert [name for name, _ in resolver.asked] == ["_dmarc.a.b.example.com", "_dmarc.b.example.com"]


async def test_nobody_can_tell_when_the_dns_does_not_answer() -> None:
    with pytest.raises(TemporaryDNSError):
        await walk("a.example.com", StaticResolver({}, failing=["_dmarc.example.com"]))
    # whose policy counts is known, how far the organization reaches is not
    resolver = StaticResolver({"_dmarc.a.example.com": {"TXT": ["v=DMARC1"]}}, failing=["_dmarc.example.com"])
    found = await walk("a.example.com", resolver)
    assert (found.organization, found.policy is None) == ("a.example.com", False)
    assert "did not answer" in found.unsure
    # a top level domain says nothing as a rule
    found = await walk("a.example.com", StaticResolver({}, failing=["_dmarc.com"]))
    assert (found.records, found.unsure) == ({}, "")


async def test_b9_reports_to_others_need_their_word() -> None:
    resolver = StaticResolver(
        {
            "_dmarc.example.com": {"TXT": ["v=DMARC1; p=none"]},
            "example.com._report._dmarc.reports.example": {"TXT": ["v=DMARC1"]},
            "*._report._dmarc.all.example": {"TXT": ["v=DMARC1;"]},
            "example.com._report._dmarc.no.example": {"TXT": ["v=spf1 -all"]},
        }
    )
    takes = {
        host: await takes_reports("example.com", host, resolver)
        for host in ("example.com", "in.example.com", "reports.example", "all.example", "no.example", "other.example")
    }
    assert takes == {
        **dict.fromkeys(("example.com", "in.example.com", "reports.example", "all.example"), True),
        **dict.fromkeys(("no.example", "other.example"), False),
    }
