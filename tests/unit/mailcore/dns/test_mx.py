import random

import pytest

from mailcore.dns.mx import MAX_NEXT_HOPS, NextHop, NoMailHost, NullMX, addresses_of, next_hops
from mailcore.dns.resolver import NoSuchDomain, StaticResolver, TemporaryDNSError
from mailcore.kit.errors import is_temporary

ZONES = {
    "example.org": {"MX": ["20 mx2.example.org.", "10 MX1.example.org.", "20 mx3.example.org."]},
    "mx1.example.org": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "mx2.example.org": {"A": ["192.0.2.3"]},
    "implicit.example": {"AAAA": ["2001:db8::2"]},
    "alias.example": {"CNAME": ["example.org."]},
    "null.example": {"MX": ["0 ."]},
    "mixed.example": {"MX": ["0 .", "10 mx1.example.org."]},
    "text.example": {"TXT": ["nothing to see"]},
    "many.example": {"MX": [f"{i} mx{i}.many.example." for i in range(100)]},
    "below.empty.example": {"A": ["192.0.2.9"]},
}


async def test_best_preference_first_and_equals_in_random_order() -> None:
    orders = {await next_hops("example.org", StaticResolver(ZONES), rng=random.Random(seed)) for seed in range(20)}
    first, second, third = (
        NextHop(10, "mx1.example.org"),
        NextHop(20, "mx2.example.org"),
        NextHop(20, "mx3.example.org"),
    )
    assert orders == {(first, second, third), (first, third, second)}


async def test_without_mx_the_domain_itself() -> None:
    assert await next_hops("implicit.example", StaticResolver(ZONES)) == (NextHop(0, "implicit.example"),)


async def test_an_alias_is_followed() -> None:
    assert len(await next_hops("alias.example", StaticResolver(ZONES))) == 3


@pytest.mark.parametrize(
    ("domain", "error", "code", "enhanced"),
    [
        ("null.example", NullMX, 556, "5.1.10"),
        ("text.example", NoMailHost, 550, "5.4.4"),
        ("empty.example", NoMailHost, 550, "5.4.4"),
        ("nowhere.example", NoSuchDomain, 550, "5.1.2"),
    ],
)
async def test_what_will_never_take_mail(
    domain: str, error: type[NullMX | NoMailHost | NoSuchDomain], code: int, enhanced: str
) -> None:
    with pytest.raises(error) as caught:
        await next_hops(domain, StaticResolver(ZONES))
    assert not is_temporary(caught.value)
    assert (caught.value.code, caught.value.enhanced) == (code, enhanced)
    assert domain in caught.value.public


async def test_a_null_mx_among_others_is_no_null_mx() -> None:
    assert await next_hops("mixed.example", StaticResolver(ZONES)) == (NextHop(10, "mx1.example.org"),)


async def test_the_number_of_hosts_is_limited_to_the_best() -> None:
    hops = await next_hops("many.example", StaticResolver(ZONES))
    assert [hop.preference for hop in hops] == list(range(MAX_NEXT_HOPS))


async def test_what_nobody_can_tell_is_temporary() -> None:
    for failing in ("example.org", "implicit.example"):
        with pytest.raises(TemporaryDNSError) as caught:
            await next_hops(failing, StaticResolver(ZONES, failing={failing}))
        assert is_temporary(caught.value)


async def test_addresses() -> None:
    resolver = StaticResolver(ZONES)
    assert await addresses_of("mx1.example.org", resolver) == ("192.0.2.1", "192.0.2.2", "2001:db8::1")
    assert await addresses_of("text.example", resolver) == ()
    with pytest.raises(NoSuchDomain):
        await addresses_of("mx3.example.org", resolver)


class OneFamilyFails(StaticResolver):
    async def aaaa(self, name: str) -> None:  # type: ignore[override]
        raise TemporaryDNSError("no answer")


async def test_one_familys_failure_counts_only_without_the_others_addresses() -> None:
    resolver = OneFamilyFails(ZONES)
    assert await addresses_of("mx2.example.org", resolver) == ("192.0.2.3",)
    with pytest.raises(TemporaryDNSError):
        await addresses_of("text.example", resolver)
