"""The openspf.org suite for RFC 7208, section "Processing limits": what it calls a permanent error we call past a limit."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import suites
from mailcore.dns.resolver import StaticResolver
from mailcore.mailauth.spf.count import MAX_LOOKUPS, MAX_VOID, count_lookups

_CASES: dict[str, Any] = {}
_ZONES: dict[str, dict[str, list[str]]] = {}
if suites.available("spf-rfc7208"):
    _text = (suites.suite("spf-rfc7208") / "rfc7208-tests.yml").read_text()
    _section = next(each for each in yaml.safe_load_all(_text) if each and each["description"] == "Processing limits")
    _CASES = _section["tests"]
    for _name, _records in _section["zonedata"].items():
        for _record in _records:
            for _type, _value in _record.items():
                _shown = f"{_value[0]} {_value[1]}." if _type == "MX" else str(_value)
                _ZONES.setdefault(_name, {}).setdefault({"SPF": "TXT"}.get(_type, _type), []).append(_shown)


@pytest.mark.skipif(not _CASES, reason="the suite is not beside the checkout (set POSTROOM_SUITES)")
@pytest.mark.parametrize("case", _CASES)
async def test_processing_limits(case: str) -> None:
    asked = _CASES[case]
    count = await count_lookups(asked["mailfrom"].partition("@")[2], StaticResolver(_ZONES))
    assert count is not None
    if (
        case == "include-at-limit"
    ):  # its sender matches before the last term; mail from elsewhere would take one lookup more
        assert count.lookups == MAX_LOOKUPS + 1
        return
    over = count.lookups > MAX_LOOKUPS or count.void > MAX_VOID or count.loop or count.wide_mx
    assert over == (asked["result"] == "permerror"), count
