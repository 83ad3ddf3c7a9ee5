import random

import pytest

from mailcore.dns.mx import MAX_NEXT_HOPS, NextHop, NoMailHost, NullMX, addresses_of, next_hops
from mailcore.dns.resolver import NoSuchDomain, StaticResolver, TemporaryDNSError
from mailcore.kit.errors import is_temporary

OCTETS = r"\255" * 20
"""A label of 20 octets, as dnspython writes it: longer than any label may be."""
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
    "odd.example": {"MX": ["5 a,b.example.", f"5 {OCTETS}.odd.example.", "10 mx_1.example.org.", "20 -mx.example."]},
    "unusable.example": {"MX": ["5 a,b.example.", "10 192.0.2.1."]},
    "unusable.null.example": {"MX": ["0 .", "5 a,b.example."]},
}


async def test_best_preference_first_and_equals_in_random_order() -> None:
    resolver = StaticResolver(ZONES)
    orders = {(await next_hops("example.org", resolver, rng=random.Random(seed))).values for seed in range(20)}
    first, second, third = (
        NextHop(10, "mx1.example.org"),
        NextHop(20, "mx2.example.org"),
        NextHop(20, "mx3.example.org"),
    )
    assert orders == {(first, second, third), (first, third, second)}


async def test_without_mx_the_domain_itself() -> None:
    found = await next_hops("implicit.example", StaticResolver(ZONES))
    assert found.values == (NextHop(0, "implicit.example"),)


async def test_an_alias_is_followed() -> None:
    found = await next_hops("alias.example", StaticResolver(ZONES))
    assert len(found.values) == 3
    assert found.canonical == "example.org"


@pytest.mark.parametrize(
    ("domain", "error", "code", "enhanced"),
    [
        ("null.example", NullMX, 556, "5.1.10"),
        ("text.example", NoMailHost, 550, "5.4.4"),
        ("empty.example", NoMailHost, 550, "5.4.4"),
        ("unusable.example", NoMailHost, 550, "5.4.4"),
        ("unusable.null.example", NullMX, 556, "5.1.10"),
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
    assert (await next_hops("mixed.example", StaticResolver(ZONES))).values == (NextHop(10, "mx1.example.org"),)


async def test_what_is_no_host_name_is_no_mail_host() -> None:
    """RFC 5321 §2.3.5 has no other names; what stands in their place would be asked for in TLS and named in keys."""
    assert (await next_hops("odd.example", StaticResolver(ZONES))).values == (NextHop(10, "mx_1.example.org"),)
    with pytest.raises(NoMailHost, match="none of its MX records names a host"):
        await next_hops("unusable.example", StaticResolver(ZONES))


async def test_the_number_of_hosts_is_limited_to_the_best() -> None:
    hops = (await next_hops("many.example", StaticResolver(ZONES))).values
    assert [hop.preference for hop in hops] == list(range(MAX_NEXT_HOPS))
    equal = StaticResolver({"equal.example": {"MX": [f"5 mx{i}.equal.example." for i in range(50)]}})
    chosen = {frozenset((await next_hops("equal.example", equal)).values) for _ in range(5)}
    assert len(chosen) == 1, "the same hosts each time, or the site would change"


async def test_an_answer_is_as_good_as_its_worst_part() -> None:
    """TTL and DNSSEC of an implicit MX are those of both questions."""
    resolver = StaticResolver(ZONES, signed={"implicit.example"}, ttl=30)
    found = await next_hops("implicit.example", resolver)
    assert (found.ttl, found.secure) == (30, True)
    assert not (await next_hops("example.org", resolver)).secure


async def test_what_nobody_can_tell_is_temporary() -> None:
    for failing in ("example.org", "implicit.example"):
        with pytest.raises(TemporaryDNSError) as caught:
            await next_hops(failing, StaticResolver(ZONES, failing={failing}))
        assert is_temporary(caught.value)


async def test_addresses() -> None:
    resolver = StaticResolver(ZONES)
    found = {(await addresses_of("mx1.example.org", resolver)).values for _ in range(50)}
    first, second, six = "192.0.2.1", "192.0.2.2", "2001:db8::1"
    assert found == {(first, six, second), (second, six, first)}, "the versions in turns, each in random order"
    assert {(await addresses_of("mx1.example.org", resolver, (6, 4))).values[0] for _ in range(5)} == {six}
    assert (await addresses_of("mx1.example.org", resolver, (6,))).values == (six,)
    assert (await addresses_of("mx2.example.org", resolver, (6,))).values == ()
    assert (await addresses_of("text.example", resolver)).values == ()
    with pytest.raises(NoSuchDomain):
        await addresses_of("mx3.example.org", resolver)


class OneFamilyFails(StaticResolver):
    async def aaaa(self, name: str) -> None:  # type: ignore[override]
        raise TemporaryDNSError("no answer")


async def test_one_familys_failure_counts_only_without_the_others_addresses() -> None:
    resolver = OneFamilyFails(ZONES)
    assert (await addresses_of("mx2.example.org", resolver)).values == ("192.0.2.3",)
    with pytest.raises(TemporaryDNSError):
        await addresses_of("text.example", resolver)
