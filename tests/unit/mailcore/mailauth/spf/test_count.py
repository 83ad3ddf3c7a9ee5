"""DNS lookups of SPF records (RFC 7208 §4.6.4)."""

from __future__ import annotations

import pytest

from mailcore.dns.resolver import StaticResolver
from mailcore.mailauth.spf.count import COUNTED_MOST, Count, count_lookups

Zones = dict[str, dict[str, list[str]]]
HOSTS: Zones = {
    "a.test": {"A": ["192.0.2.1"], "MX": ["10 mx.a.test."]},
    "six.test": {"AAAA": ["2001:db8::1"]},
    "flat.test": {"TXT": ["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"]},
    "two.test": {"TXT": ["v=spf1 a:a.test include:flat.test ~all"]},
    "more.test": {"TXT": ["v=spf1 redirect=two.test"]},
}


async def _count(record: str | list[str], zones: Zones | None = None) -> Count | None:
    texts = [record] if isinstance(record, str) else record
    own = {"TXT": texts, "A": ["192.0.2.9"], "MX": ["10 mx.own.test."]}
    return await count_lookups("own.test", StaticResolver({**HOSTS, **(zones or {}), "own.test": own}))


@pytest.mark.parametrize(
    ("record", "lookups", "void"),
    [
        ("v=spf1 -all", 0, 0),
        ("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all", 0, 0),
        ("v=spf1 a mx ptr -all", 3, 0),
        ("V=SPF1 A MX/24 ?A:A.TEST//64 +mx:a.test -ALL", 4, 0),
        ("v=spf1 include:flat.test -all", 1, 0),
        ("v=spf1 include:two.test -all", 3, 0),
        ("v=spf1 include:more.test -all", 4, 0),
        ("v=spf1 redirect=two.test", 3, 0),
        ("v=spf1 redirect=two.test -all", 0, 0),  # §6.1: beside all it is ignored
        ("v=spf1 exists:%{i}.a.test include:%{d}.x -all", 2, 0),  # macros count and are not asked
        ("v=spf1 a:gone.test mx:gone.test include:gone.test -all", 3, 3),
        ("v=spf1 a:six.test -all", 1, 0),
        ("v=spf1 exists:six.test -all", 1, 1),  # §5.7: A only
        ("v=spf1 exp=explain.test unknown=two.test include=two.test -all", 0, 0),  # modifiers
    ],
)
async def test_lookups(record: str, lookups: int, void: int) -> None:
    count = await _count(record)
    assert count is not None
    assert (count.lookups, count.void, count.loop, count.incomplete) == (lookups, void, False, False)


async def test_the_limit_is_passed_by_includes_of_includes() -> None:
    record = "v=spf1 " + " ".join(f"include:p{n}.test" for n in range(4)) + " -all"
    zones = {f"p{n}.test": {"TXT": ["v=spf1 a:a.test mx:a.test -all"]} for n in range(4)}
    count = await _count(record, zones)
    assert count is not None and count.lookups == 12


async def test_no_record_and_no_answer_are_no_count() -> None:
    assert await _count("google-site-verification=1") is None
    assert await count_lookups("gone.test", StaticResolver({})) is None
    assert await count_lookups("own.test", StaticResolver({}, failing={"own.test"})) is None


async def test_several_records_are_said() -> None:
    count = await _count(["v=spf1 a -all", "v=spf1 -all"])
    assert count is not None and count.records == 2


async def test_an_answer_that_is_missing_makes_it_a_lower_bound() -> None:
    zones = {**HOSTS, "own.test": {"TXT": ["v=spf1 include:slow.test a:slow.test -all"]}}
    count = await count_lookups("own.test", StaticResolver(zones, failing={"slow.test"}))
    assert count is not None
    assert (count.lookups, count.void, count.incomplete) == (2, 0, True)


async def test_loops_and_floods_end() -> None:
    count = await _count("v=spf1 include:round.test -all", {"round.test": {"TXT": ["v=spf1 include:own.test -all"]}})
    assert count is not None and count.loop and count.lookups == 2
    wide = {
        f"w{n}.test": {"TXT": ["v=spf1 " + " ".join(f"include:w{n + 1}.test" for _ in range(50))]} for n in range(60)
    }
    resolver = StaticResolver({**wide, "own.test": {"TXT": ["v=spf1 include:w0.test"]}})
    count = await count_lookups("own.test", resolver)
    assert count is not None and count.incomplete
    assert count.lookups == COUNTED_MOST
    assert len(resolver.asked) <= COUNTED_MOST + 1


@pytest.mark.parametrize("term", ["include:", "a:", "a:..", "include:" + "x" * 300, "a:\ufffd", "mx:/", "redirect="])
async def test_names_that_are_none(term: str) -> None:
    count = await _count(f"v=spf1 {term}")
    assert count is not None and count.lookups <= 1
