from __future__ import annotations

import pytest

from mailcore.dns.mx import NextHop
from mailcore.dns.resolver import StaticResolver, TemporaryDNSError
from mailcore.kit.errors import Refused
from outbound.routes import ByMX, OneHost, order, refusal, site_key


def test_a_site_is_a_set_of_hosts() -> None:
    assert site_key(["b.test", "a.test"]) == site_key(["a.test", "b.test"]) == "mx:a.test,b.test"
    long = site_key([f"host{n}.example.com" for n in range(100)])
    assert len(long) <= 400
    assert not long.endswith(",")


def test_order_leaves_equal_preferences_together() -> None:
    first = order([NextHop(5, "b"), NextHop(5, "a"), NextHop(9, "c")])
    assert first == order([NextHop(10, "a"), NextHop(10, "b"), NextHop(20, "c")]) == "a,b;c"
    assert order([NextHop(5, "c"), NextHop(9, "a"), NextHop(9, "b")]) == "c;a,b"


@pytest.mark.parametrize(
    ("ip", "reached"),
    [
        ("8.8.8.8", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
    ],
)
async def test_private_addresses_are_refused(ip: str, reached: bool) -> None:
    finder = ByMX(StaticResolver({"x.test": {"MX": ["10 mx.x.test."]}, "mx.x.test": {"A": [ip]}}), 25, [])
    if reached:
        assert (await finder.find("x.test")).hops[0].ips == (ip,)
    else:
        with pytest.raises(Refused) as refused:
            await finder.find("x.test")
        assert refusal(refused.value).rule == "private-address"


@pytest.mark.parametrize("ip", ["::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "2002:a00:1::1", "ff02::1"])
async def test_private_addresses_of_version_6_too(ip: str) -> None:
    finder = ByMX(StaticResolver({"x.test": {"AAAA": [ip]}}), 25, [])
    with pytest.raises(Refused):
        await finder.find("x.test")


async def test_one_host_that_the_dns_does_not_tell_is_no_reason_to_wait_for_it() -> None:
    zones = {"x.test": {"MX": ["10 sick.test.", "20 well.test."]}, "well.test": {"A": ["8.8.8.8"]}}
    found = await ByMX(StaticResolver(zones, failing={"sick.test"}), 25, []).find("x.test")
    assert [hop.host for hop in found.hops] == ["well.test"]
    with pytest.raises(TemporaryDNSError):
        await ByMX(StaticResolver({"x.test": {"MX": ["10 sick.test."]}}, failing={"sick.test"}), 25, []).find("x.test")


async def test_one_host_for_all() -> None:
    finder = OneHost("catch", "127.0.0.1", 2525, StaticResolver({}))
    found = await finder.find("anything.test")
    assert (found.key, found.hops[0].ips, found.hops[0].port) == ("catch:127.0.0.1:2525", ("127.0.0.1",), 2525)
