"""One contract for both resolvers; then what only the real one does: TTLs, one question for many askers, time-outs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fakes.dns_server import NEGATIVE_TTL, DnsServer
from mailcore.dns.resolver import MX, DnsResolver, NoSuchDomain, Resolver, StaticResolver, TemporaryDNSError
from mailcore.kit.errors import Invalid

LONG = "v=DKIM1; k=rsa; p=" + "A" * 390
HUGE = "x" * 4_000
ZONES = {
    "example.org": {"MX": ["10 MX1.example.org.", "20 mx2.example.org."], "TXT": ["v=spf1 -all", "other é"]},
    "mx1.example.org": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "null.example": {"MX": ["0 ."]},
    "alias.example": {"CNAME": ["mx1.example.org."]},
    "dangling.example": {"CNAME": ["nowhere.example."]},
    "circle.example": {"CNAME": ["circle2.example."]},
    "circle2.example": {"CNAME": ["circle.example."]},
    "s1._domainkey.example.org": {"TXT": [LONG]},
    "huge.example": {"TXT": [HUGE]},
    "deep.empty.example": {"A": ["192.0.2.9"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Host.example.org."]},
}
FAILING = {"broken.example"}


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    async with DnsServer(ZONES, failing=FAILING, silent={"silent.example"}) as started:
        yield started


def patient(nameservers: list[str], **options: Any) -> DnsResolver:
    """One that asks once: a busy machine answers late, and what was asked is counted."""
    return DnsResolver(nameservers, **{"timeout": 60, **options})


@pytest.fixture(params=["real", "static"])
def resolver(request: pytest.FixtureRequest, server: DnsServer) -> Resolver:
    if request.param == "real":
        return patient([server.address])
    return StaticResolver(ZONES, failing=FAILING)


async def test_values(resolver: Resolver) -> None:
    records = await resolver.mx("example.org")
    assert sorted(records.values, key=lambda mx: mx.preference) == [
        MX(10, "mx1.example.org"),
        MX(20, "mx2.example.org"),
    ]
    assert records.ttl == 60
    assert set((await resolver.a("mx1.example.org")).values) == {"192.0.2.1", "192.0.2.2"}
    assert (await resolver.aaaa("mx1.example.org")).values == ("2001:db8::1",)
    assert set((await resolver.txt("example.org")).values) == {"v=spf1 -all", "other é"}
    assert (await resolver.mx("null.example")).values == (MX(0, ""),)
    assert (await resolver.ptr("192.0.2.1")).values == ("host.example.org",)


async def test_long_texts_come_whole(resolver: Resolver) -> None:
    assert (await resolver.txt("s1._domainkey.example.org")).values == (LONG,)
    assert (await resolver.txt("huge.example")).values == (HUGE,)


async def test_case_and_the_trailing_dot_mean_nothing(resolver: Resolver) -> None:
    assert await resolver.aaaa("MX1.Example.ORG.") == await resolver.aaaa("mx1.example.org")


async def test_aliases(resolver: Resolver) -> None:
    assert (await resolver.aaaa("alias.example")).values == ("2001:db8::1",)
    assert (await resolver.mx("alias.example")).values == ()
    with pytest.raises(NoSuchDomain):
        await resolver.a("dangling.example")
    with pytest.raises(TemporaryDNSError):
        await resolver.a("circle.example")


async def test_nothing_is_an_empty_answer(resolver: Resolver) -> None:
    assert (await resolver.a("example.org")).values == ()
    assert (await resolver.a("empty.example")).values == ()


@pytest.mark.parametrize("name", ["nowhere.example", "", "a..b", "é.example", "x" * 64 + ".example", "a." * 200 + "b"])
async def test_names_that_do_not_exist(resolver: Resolver, name: str) -> None:
    for ask in (resolver.mx, resolver.a, resolver.aaaa, resolver.txt):
        with pytest.raises(NoSuchDomain):
            await ask(name)
    with pytest.raises(NoSuchDomain):
        await resolver.ptr("not an address")


async def test_a_failing_server_is_temporary(resolver: Resolver) -> None:
    with pytest.raises(TemporaryDNSError) as raised:
        await resolver.mx("broken.example")
    assert raised.value.public == "The DNS did not answer for broken.example (MX): SERVFAIL."


# ---- the real one ---------------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_answers_are_kept_for_their_ttl(server: DnsServer) -> None:
    time = Time()
    resolver = patient([server.address], monotonic=time)
    for _ in range(3):
        await resolver.a("mx1.example.org")
    time.now += 59
    await resolver.a("mx1.example.org")
    assert server.asked == [("mx1.example.org", "A")]
    time.now += 2
    await resolver.a("mx1.example.org")
    assert len(server.asked) == 2


@pytest.mark.parametrize(("ttl", "kept", "gone"), [(0, 4, 6), (100_000, 99, 101)])
async def test_the_ttl_is_kept_in_bounds(server: DnsServer, ttl: int, kept: float, gone: float) -> None:
    time = Time()
    server.ttl = ttl
    resolver = patient([server.address], monotonic=time, min_ttl=5, max_ttl=100)
    for after, count in ((0, 1), (kept, 1), (gone, 2)):
        time.now = 1_000.0 + after
        assert (await resolver.a("mx1.example.org")).ttl == ttl
        assert len(server.asked) == count


async def test_negative_answers_are_kept_for_the_soas_time(server: DnsServer) -> None:
    time = Time()
    resolver = patient([server.address], monotonic=time)
    for after, count in ((0, 2), (NEGATIVE_TTL - 1, 2), (NEGATIVE_TTL + 1, 4)):
        time.now = 1_000.0 + after
        with pytest.raises(NoSuchDomain):
            await resolver.a("nowhere.example")
        assert (await resolver.aaaa("example.org")).values == ()
        assert len(server.asked) == count


async def test_failures_are_kept_for_a_moment_only(server: DnsServer) -> None:
    time = Time()
    resolver = patient([server.address], monotonic=time, failure_ttl=1)
    for after, count in ((0, 1), (0.5, 1), (1.5, 2)):
        time.now = 1_000.0 + after
        with pytest.raises(TemporaryDNSError):
            await resolver.a("broken.example")
        assert len(server.asked) == count
    server.failing = ()
    server.zones = {"broken.example": {"A": ["192.0.2.7"]}}
    time.now += 2
    assert (await resolver.a("broken.example")).values == ("192.0.2.7",)


async def test_the_cache_drops_what_was_used_least_recently(server: DnsServer) -> None:
    resolver = patient([server.address], cache_size=2)
    for name in ("mx1.example.org", "example.org", "mx1.example.org", "null.example", "mx1.example.org"):
        await resolver.a(name)
    assert [name for name, _ in server.asked] == ["mx1.example.org", "example.org", "null.example"]
    await resolver.a("example.org")
    assert len(server.asked) == 4


async def test_no_cache(server: DnsServer) -> None:
    resolver = patient([server.address], cache_size=0)
    await resolver.a("mx1.example.org")
    await resolver.a("mx1.example.org")
    assert len(server.asked) == 2


async def test_a_hundred_askers_ask_once(server: DnsServer) -> None:
    resolver = patient([server.address])
    server.gate.clear()
    asking = [asyncio.create_task(resolver.mx("example.org")) for _ in range(100)]
    async with asyncio.timeout(60):
        while not server.asked:
            await asyncio.sleep(0)
    asking[0].cancel()
    server.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(answer == answers[1] and not isinstance(answer, BaseException) for answer in answers[1:])
    assert server.asked == [("example.org", "MX")]


async def test_no_answer_in_time_is_temporary(server: DnsServer) -> None:
    resolver = DnsResolver([server.address], timeout=0.1, lifetime=0.2)
    with pytest.raises(TemporaryDNSError) as raised:
        await resolver.a("silent.example")
    assert raised.value.public == "The DNS did not answer for silent.example (A): no answer in time."


async def test_the_next_name_server_is_asked(server: DnsServer) -> None:
    async with DnsServer(ZONES, silent=set(ZONES)) as silent:
        resolver = DnsResolver([silent.address, server.address], timeout=0.2, lifetime=60)
        assert (await resolver.aaaa("mx1.example.org")).values == ("2001:db8::1",)
        assert silent.asked


async def test_large_answers_come_by_tcp(server: DnsServer) -> None:
    resolver = patient([server.address])
    await resolver.txt("s1._domainkey.example.org")
    assert server.asked_by_tcp == []
    await resolver.txt("huge.example")
    assert server.asked_by_tcp == [("huge.example", "TXT")]


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:5353", "::1", "[::1]:53", "[2001:db8::1]"])
def test_name_servers(text: str) -> None:
    DnsResolver([text])


@pytest.mark.parametrize("text", ["", "localhost:53", "192.0.2.1:x", "192.0.2.1:70000", "[::1]:-1", "example.org"])
def test_what_is_no_name_server(text: str) -> None:
    with pytest.raises(Invalid):
        DnsResolver([text])
