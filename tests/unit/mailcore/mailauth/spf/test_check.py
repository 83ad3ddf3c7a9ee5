"""check_host() against the openspf.org suite for RFC 7208, all of its sections, and what else must hold."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import suites
from mailcore.dns.resolver import NoSuchDomain, Records, StaticResolver, TemporaryDNSError
from mailcore.mailauth.spf.check import Result, check_host

_CASES: list[Any] = []


class Zone(StaticResolver):
    """The suite's zone data: `TIMEOUT` among a name's records is the answer for every type that it does not list."""

    def __init__(self, data: dict[str, Any]) -> None:
        zones: dict[str, dict[str, list[str]]] = {}
        self.slow: set[str] = set()
        for written, records in data.items():
            name = written.lower().rstrip(".")
            zone = zones.setdefault(name, {})
            own_txt = any(isinstance(each, dict) and "TXT" in each for each in records)
            for record in records:
                if record == "TIMEOUT":
                    self.slow.add(name)
                    continue
                for kind, value in record.items():
                    text = "".join(value) if kind in ("SPF", "TXT") and isinstance(value, list) else value
                    shown = f"{text[0]} {text[1]}." if kind == "MX" else str(text)
                    if kind == "SPF" and own_txt:
                        continue  # the type is obsolete: where a TXT stands beside it, only that one counts
                    if (kind, text) == ("TXT", "NONE"):
                        continue
                    zone.setdefault({"SPF": "TXT"}.get(kind, kind), []).append(shown)
        super().__init__(zones)

    def _answer(self, name: str, rdtype: str, value_of: Any) -> Records[Any]:
        plain = name.lower().removesuffix(".")
        if plain in self.slow and rdtype not in self.zones[plain]:
            raise TemporaryDNSError("slow")
        return super()._answer(name, rdtype, value_of)


if suites.available("spf-rfc7208"):
    _text = (suites.suite("spf-rfc7208") / "rfc7208-tests.yml").read_text()
    for _section in yaml.safe_load_all(_text):
        if _section:
            _zone = _section["zonedata"]
            _CASES += [
                pytest.param(_zone, case, id=f"{_section['description']}-{name}")
                for name, case in _section["tests"].items()
            ]


@pytest.mark.skipif(not _CASES, reason="the suite is not beside the checkout (set POSTROOM_SUITES)")
@pytest.mark.parametrize(("zone", "case"), _CASES)
async def test_the_suite(zone: dict[str, Any], case: dict[str, Any]) -> None:
    sender, helo = case["mailfrom"], case["helo"]
    domain = sender.rpartition("@")[2] or helo
    found = await check_host(case["host"], domain, sender, Zone(zone), helo=helo)
    expected = case["result"] if isinstance(case["result"], list) else [case["result"]]
    assert found.result.value in expected, f"{found} for {case}"


async def test_what_decided_is_told() -> None:
    zones = {
        "send.example.test": {"TXT": ["v=spf1 include:_spf.mail.test ~all"]},
        "_spf.mail.test": {"TXT": ["v=spf1 ip4:192.0.2.0/24 -all"]},
    }
    resolver = StaticResolver(zones)
    inside = await check_host("192.0.2.9", "send.example.test", "b@send.example.test", resolver)
    assert (inside.result, inside.term) == (Result.PASS, "include:_spf.mail.test")
    outside = await check_host("198.51.100.9", "send.example.test", "b@send.example.test", resolver)
    assert (outside.result, outside.term) == (Result.SOFTFAIL, "~all")


async def test_an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() -> None:
    resolver = StaticResolver({"example.test": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}})
    found = await check_host("::ffff:192.0.2.1", "example.test", "a@example.test", resolver)
    assert found.result is Result.PASS


async def test_a_dns_that_does_not_answer_is_temporary_and_its_words_are_kept() -> None:
    resolver = StaticResolver({}, failing=["example.test"])
    found = await check_host("192.0.2.1", "example.test", "a@example.test", resolver)
    assert found.result is Result.TEMPERROR and "example.test" in found.term


async def test_records_that_include_each_other_end() -> None:
    zones = {
        "a.test": {"TXT": ["v=spf1 include:b.test -all"]},
        "b.test": {"TXT": ["v=spf1 include:a.test -all"]},
    }
    resolver = StaticResolver(zones)
    found = await check_host("192.0.2.1", "a.test", "x@a.test", resolver)
    assert found.result is Result.PERMERROR
    assert len(resolver.asked) <= 12


async def test_a_name_that_does_not_exist_has_no_record() -> None:
    with pytest.raises(NoSuchDomain):
        await StaticResolver({}).txt("nobody.test")
    found = await check_host("192.0.2.1", "nobody.test", "a@nobody.test", StaticResolver({}))
    assert found.result is Result.NONE
