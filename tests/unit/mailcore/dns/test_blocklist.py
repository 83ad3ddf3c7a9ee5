"""DNS blocklists (RFC 5782)."""

from __future__ import annotations

from mailcore.dns.blocklist import look_up
from mailcore.dns.resolver import StaticResolver

LIST = "bl.example.test"


async def test_an_address_that_is_listed_with_the_lists_reason() -> None:
    zones = {f"9.2.0.192.{LIST}": {"A": ["127.0.0.2"], "TXT": ["Spam source,  see https://bl.example.test/192.0.2.9"]}}
    found = await look_up("192.0.2.9", LIST, StaticResolver(zones))
    assert found.listed is True
    assert found.text == "Spam source, see https://bl.example.test/192.0.2.9"


async def test_without_a_reason_the_code_is_told() -> None:
    found = await look_up("192.0.2.9", LIST, StaticResolver({f"9.2.0.192.{LIST}": {"A": ["127.0.0.4"]}}))
    assert (found.listed, found.text) == (True, "code 127.0.0.4")


async def test_an_address_that_is_not_listed() -> None:
    found = await look_up("192.0.2.9", LIST, StaticResolver({LIST: {"A": ["192.0.2.200"]}}))
    assert (found.listed, found.text) == (False, "")


async def test_ipv6_is_asked_for_by_nibbles() -> None:
    resolver = StaticResolver({})
    assert (await look_up("2001:db8::1", LIST, resolver)).listed is False
    assert resolver.asked == [(f"1.{'0.' * 23}8.b.d.0.1.0.0.2.{LIST}", "A")]


async def test_a_list_that_refuses_its_answer_is_no_all_clear() -> None:
    found = await look_up("192.0.2.9", LIST, StaticResolver({f"9.2.0.192.{LIST}": {"A": ["127.255.255.254"]}}))
    assert found.listed is None and "refuses" in found.text


async def test_a_domain_that_answers_for_every_name_is_no_list() -> None:
    found = await look_up("192.0.2.9", LIST, StaticResolver({f"9.2.0.192.{LIST}": {"A": ["203.0.113.80"]}}))
    assert found.listed is None and "no blocklist" in found.text


async def test_a_dns_that_does_not_answer_tells_nothing() -> None:
    found = await look_up("192.0.2.9", LIST, StaticResolver({}, failing=[f"9.2.0.192.{LIST}"]))
    assert found.listed is None and "did not answer" in found.text
