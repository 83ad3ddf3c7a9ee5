from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from mailcore.dns.mx import MailLoop, NextHop, site_key
from mailcore.dns.resolver import Records, StaticResolver, TemporaryDNSError
from mailcore.flow.ourselves import Ourselves
from mailcore.flow.shaping import hosts_of
from mailcore.kit.errors import Refused
from mailcore.kit.ids import uuid7
from mailcore.store.sources import KnownSource, KnownWarmup
from outbound.routes import MAX_ADDRESSES, MAX_ADDRESSES_OF_HOST, ByMX, OneHost, order, refusal


def test_a_site_is_a_set_of_hosts() -> None:
    assert site_key(["b.test", "a.test"]) == site_key(["a.test", "b.test"]) == "mx:a.test,b.test"


def test_the_key_of_a_large_set_of_hosts_is_no_other_ones() -> None:
    """Cut, it is still of all of them: neither of the set that its first ones are, nor of one with other ones behind."""
    hosts = [f"host{n:03}.example.com" for n in range(100)]
    long = site_key(hosts)
    assert long == site_key(reversed(hosts))
    assert len(long) <= 400
    assert long.startswith("mx:host000.example.com,host001.example.com,")
    named = hosts_of(long)
    assert named == hosts[: len(named)]
    assert len({long, site_key(named), site_key(hosts[:-1]), site_key([*hosts, "z.example.com"])}) == 4
    # the longest that is written whole
    at_most = [f"{n}{'x' * 40}.example.com" for n in range(7)]
    at_most.append("y" * (397 - len(",".join(at_most)) - 1))
    assert site_key(at_most) == "mx:" + ",".join(at_most)
    assert len(site_key(at_most)) == 400


async def test_nobody_takes_anothers_site_by_a_name_with_commas() -> None:
    victim, long = "a.mx.google.test,b.mx.google.test", ".".join(["z" * 60] * 4)
    zones = {
        "evil.test": {"MX": [f"10 {victim}.", f"20 {long}.", "30 y.test."]},
        victim: {"A": ["8.8.8.8"]},
        "y.test": {"A": ["8.8.8.8"]},
        "good.test": {"MX": ["10 a.mx.google.test.", "10 b.mx.google.test."]},
        "a.mx.google.test": {"A": ["8.8.4.4"]},
    }
    finder = ByMX(StaticResolver(zones), 25, [])
    good, evil = await finder.find("good.test"), await finder.find("evil.test")
    assert good.key == f"mx:{victim}"
    assert hosts_of(evil.key) == ["y.test", long]


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


@pytest.mark.parametrize(
    "ip", ["::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "2002:a00:1::1", "64:ff9b::7f00:1", "ff02::1"]
)
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


async def test_what_is_private_among_others_is_left_out() -> None:
    zones = {"x.test": {"MX": ["10 mx.x.test."]}, "mx.x.test": {"A": ["10.0.0.1", "8.8.8.8"], "AAAA": ["::1"]}}
    assert (await ByMX(StaticResolver(zones), 25, []).find("x.test")).hops[0].ips == ("8.8.8.8",)


async def test_an_alias_as_mail_host_is_followed() -> None:
    """RFC 2181 §10.3 forbids it; many do it, and the mail arrives."""
    zones = {
        "x.test": {"MX": ["10 alias.x.test."]},
        "alias.x.test": {"CNAME": ["real.y.test."]},
        "real.y.test": {"A": ["8.8.8.8"]},
    }
    found = await ByMX(StaticResolver(zones), 25, []).find("x.test")
    assert [(hop.host, hop.ips) for hop in found.hops] == [("alias.x.test", ("8.8.8.8",))]


async def test_the_number_of_addresses_is_limited_and_the_site_stays_one() -> None:
    zones = {"x.test": {"MX": [f"10 mx{n}.x.test." for n in range(50)]}}
    zones |= {f"mx{n}.x.test": {"A": [f"8.8.{n}.{i}" for i in range(1, 9)]} for n in range(50)}
    finder = ByMX(StaticResolver(zones), 25, [])
    keys = set()
    for _ in range(5):
        found = await finder.find("x.test")
        keys.add((found.key, found.order))
        assert sum(len(hop.ips) for hop in found.hops) == MAX_ADDRESSES
        assert max(len(hop.ips) for hop in found.hops) == MAX_ADDRESSES_OF_HOST
    assert len(keys) == 1


async def test_a_site_is_the_same_while_the_dns_knows_one_host_only() -> None:
    zones = {
        "x.test": {"MX": ["10 a.test.", "20 b.test."]},
        "a.test": {"A": ["8.8.8.8"]},
        "b.test": {"A": ["8.8.4.4"]},
    }
    whole = await ByMX(StaticResolver(zones), 25, []).find("x.test")
    half = await ByMX(StaticResolver(zones, failing={"a.test"}), 25, []).find("x.test")
    assert (whole.key, whole.order) == (half.key, half.order) == ("mx:a.test,b.test", "a.test;b.test")


async def test_versions_of_ip() -> None:
    zones = {"x.test": {"A": ["8.8.8.8"], "AAAA": ["2a00:1450::1"]}, "six.test": {"AAAA": ["2a00:1450::2"]}}
    resolver = StaticResolver(zones)
    for versions, ips in {
        (4, 6): ("8.8.8.8", "2a00:1450::1"),
        (6, 4): ("2a00:1450::1", "8.8.8.8"),
        (4,): ("8.8.8.8",),
        (6,): ("2a00:1450::1",),
    }.items():
        assert (await ByMX(resolver, 25, [], versions=versions).find("x.test")).hops[0].ips == ips
    with pytest.raises(Refused) as refused:
        await ByMX(resolver, 25, [], versions=(4,)).find("six.test")
    assert refusal(refused.value).rule == "no-address"


async def test_the_answer_lasts_as_long_as_its_shortest_part() -> None:
    found = await ByMX(StaticResolver({"x.test": {"A": ["8.8.8.8"]}}, ttl=17), 25, []).find("x.test")
    assert found.ttl == 17


OURS = {
    "mail.ours.test": {"A": ["8.8.8.1"]},
    "other.test": {"A": ["8.8.4.4"]},
    "worse.test": {"A": ["8.8.4.5"]},
    "same-address.test": {"A": ["8.8.8.1"]},
    "first.test": {"MX": ["10 mail.ours.test.", "20 worse.test."]},
    "backup.test": {"MX": ["10 other.test.", "20 mail.ours.test.", "20 equal.test.", "30 worse.test."]},
    "equal.test": {"A": ["8.8.4.6"]},
    "alias.test": {"MX": ["10 same-address.test."]},
    "elsewhere.test": {"MX": ["10 other.test."]},
}


async def _hosts(domain: str, receives: bool) -> list[str]:
    async def received(name: str) -> bool:
        assert name == domain
        return receives

    resolver = StaticResolver(OURS)
    ourselves = Ourselves(("MAIL.ours.test.", "unknown.ours.test"), resolver, received)
    return [hop.host for hop in (await ByMX(resolver, 25, [], ourselves=ourselves).find(domain)).hops]


@pytest.mark.parametrize("domain", ["first.test", "alias.test"])
async def test_mail_that_would_come_back_to_us(domain: str) -> None:
    """RFC 5321 §5.1: by name or by address, the best host is ourselves."""
    with pytest.raises(Refused) as refused:
        await _hosts(domain, receives=False)
    outcome = refusal(refused.value)
    assert (outcome.rule, str(outcome.reply)[:9]) == ("mail-loop", "550 5.4.6")
    # to a domain of our own it goes, and nowhere else
    assert await _hosts(domain, receives=True) == ["mail.ours.test" if domain == "first.test" else "same-address.test"]


async def test_hosts_no_better_than_ourselves_are_left_out() -> None:
    """We are a backup: only the better hosts are tried, whether the domain is ours or not."""
    for receives in (False, True):
        assert await _hosts("backup.test", receives) == ["other.test"]
    assert await _hosts("elsewhere.test", receives=False) == ["other.test"]


async def test_the_names_and_addresses_of_pools_are_ours_too() -> None:
    async def never(_: str) -> bool:
        return False

    zones = {
        "name.test": {"MX": ["10 out1.ours.test."]},
        "bound.test": {"A": ["8.8.8.9"]},
        "outside.test": {"A": ["8.8.8.10"]},
        "out1.ours.test": {"A": ["8.8.8.10"]},  # the name's, before a translation of addresses
        "translated.test": {"A": ["8.8.8.11"], "AAAA": ["2600::11"]},
    }
    pools: list[KnownSource] = []
    resolver = StaticResolver(zones)
    ourselves = Ourselves(["mail.ours.test"], resolver, never, sources=lambda: pools, own_seconds=0)
    finder = ByMX(resolver, 25, [], ourselves=ourselves)
    domains = ("name.test", "bound.test", "outside.test", "translated.test")
    for domain in domains:
        assert (await finder.find(domain)).hops
    warm = KnownWarmup(uuid7(), "warm", begun=False, cap=None, leased=0)
    given = (uuid7(), uuid7(), "8.8.8.9", None, "OUT1.ours.test", False, False, warm)
    pools.append(KnownSource(*given, outside=("8.8.8.11",)))
    for domain in domains:
        with pytest.raises(MailLoop):
            await finder.find(domain)
    pools.clear()
    for domain in domains:
        assert (await finder.find(domain)).hops


@pytest.mark.parametrize("ip", ["8.8.8.12", "2600:0::12"])
async def test_the_address_that_mail_leaves_from_without_a_pool_is_ours_too(ip: str) -> None:
    async def never(_: str) -> bool:
        return False

    resolver = StaticResolver({"us.test": {"A": ["8.8.8.12"], "AAAA": ["2600::12"]}, "them.test": {"A": ["8.8.8.13"]}})
    finder = ByMX(resolver, 25, [], ourselves=Ourselves(["mail.ours.test"], resolver, never, source_ip=ip))
    assert (await finder.find("them.test")).hops
    with pytest.raises(MailLoop):
        await finder.find("us.test")


async def test_loopback_is_not_ourselves() -> None:
    """On one machine everything has that address: only the name says who it is."""

    async def never(_: str) -> bool:
        return False

    zones = {
        "mail.ours.test": {"A": ["127.0.0.1"]},
        "x.test": {"A": ["127.0.0.1"]},
        "y.test": {"MX": ["1 mail.ours.test."]},
    }
    resolver = StaticResolver(zones)
    finder = ByMX(resolver, 25, [ip_network("127.0.0.0/8")], ourselves=Ourselves(["mail.ours.test"], resolver, never))
    assert (await finder.find("x.test")).hops[0].ips == ("127.0.0.1",)
    with pytest.raises(Refused):
        await finder.find("y.test")


async def test_a_dns_that_is_silent_about_us_holds_nobody_up() -> None:
    class Silent(StaticResolver):
        async def a(self, name: str) -> Records[str]:
            if name == "mail.ours.test":
                await asyncio.Event().wait()
            return await super().a(name)

    async def never(_: str) -> bool:
        return False

    resolver = Silent(OURS)
    ourselves = Ourselves(["mail.ours.test"], resolver, never, wait_seconds=0.01)
    finder = ByMX(resolver, 25, [], ourselves=ourselves)
    for _ in range(3):
        assert [hop.host for hop in (await finder.find("elsewhere.test")).hops] == ["other.test"]
    assert resolver.asked.count(("mail.ours.test", "AAAA")) == 1, "asked once"
