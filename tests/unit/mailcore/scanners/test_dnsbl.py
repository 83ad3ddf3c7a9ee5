"""Blocklists as a scanner: addresses and domains, private addresses skipped, silence is no all-clear (B-4)."""

from __future__ import annotations

import pytest

from mailcore.dns.resolver import StaticResolver
from mailcore.kit.errors import Unavailable
from mailcore.mime.parse import Message
from mailcore.scanners.base import Facts, Verdict
from mailcore.scanners.dnsbl import Dnsbl, public_address

IPS, NAMES = "zen.example.test", "dbl.example.test"
RAW = b"From: Ann <ann@Shop.example>\r\n\r\nhi\r\n"


def facts(ip: str | None = "192.0.2.9", mail_from: str = "bounce@mailer.example") -> Facts:
    return Facts("1", ip, "x", mail_from, ("b@y.example",), len(RAW), Message(RAW).summary())


def scanner(zones: dict[str, dict[str, list[str]]], failing: list[str] | None = None) -> tuple[Dnsbl, StaticResolver]:
    resolver = StaticResolver(zones, failing=failing or [])
    return Dnsbl(resolver, addresses=[IPS], domains=[NAMES]), resolver


async def test_nobody_lists_it() -> None:
    one, resolver = scanner({})
    assert (await one.scan(RAW, facts())).verdict is Verdict.CLEAN
    assert {name for name, _ in resolver.asked} == {
        f"9.2.0.192.{IPS}",
        f"mailer.example.{NAMES}",
        f"shop.example.{NAMES}",
    }


@pytest.mark.parametrize("name", [f"9.2.0.192.{IPS}", f"mailer.example.{NAMES}", f"shop.example.{NAMES}"])
async def test_one_listing_is_enough(name: str) -> None:
    one, _ = scanner({name: {"A": ["127.0.0.2"], "TXT": ["spam source"]}}, failing=[f"other.{NAMES}"])
    found = await one.scan(RAW, facts())
    assert (found.verdict, found.reason) == (Verdict.LISTED, "dnsbl")
    assert "spam source" in found.detail and found.tags in ((IPS,), (NAMES,))


async def test_a_list_that_does_not_answer_is_no_all_clear_but_another_that_lists_counts() -> None:
    one, _ = scanner({}, failing=[f"9.2.0.192.{IPS}"])
    with pytest.raises(Unavailable):
        await one.scan(RAW, facts())
    one, _ = scanner({f"shop.example.{NAMES}": {"A": ["127.0.0.2"]}}, failing=[f"9.2.0.192.{IPS}"])
    assert (await one.scan(RAW, facts())).verdict is Verdict.LISTED


@pytest.mark.parametrize(
    "ip",
    [
        *(
            "10.1.2.3",
            "127.0.0.1",
            "0.1.2.3",
            "169.254.1.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "224.0.0.1",
        ),
        *(
            "255.255.255.255",
            "::1",
            "::",
            "fc00::1",
            "fdff::1",
            "fe80::1%eth0",
            "febf::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ),
        *("x", ""),
    ],
)
async def test_addresses_that_nobody_outside_knows_are_not_asked_about(ip: str) -> None:
    assert public_address(ip) is None
    one, resolver = scanner({})
    await one.scan(RAW, facts(ip, ""))
    assert not [name for name, _ in resolver.asked if name.endswith(IPS)]


@pytest.mark.parametrize(
    ("ip", "normal"), [("::ffff:192.0.2.9", "192.0.2.9"), ("172.32.0.1", "172.32.0.1"), ("2001:DB8::1", "2001:db8::1")]
)
def test_addresses_that_are_asked_about(ip: str, normal: str) -> None:
    assert public_address(ip) == normal


async def test_nothing_to_ask_about() -> None:
    one, _ = scanner({})
    raw = b"Subject: nobody\r\n\r\n"
    nobody = Facts("1", None, "", "", (), len(raw), Message(raw).summary())
    assert (await one.scan(raw, nobody)).verdict is Verdict.SKIPPED
