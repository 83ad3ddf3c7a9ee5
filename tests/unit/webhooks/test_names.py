from __future__ import annotations

from collections.abc import Sequence

import pytest

from mailcore.dns.resolver import StaticResolver
from mailcore.kit.errors import Unavailable
from webhooks.names import through

ZONES = {"both.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]}, "text.test": {"TXT": ["x"]}}


async def _system(host: str) -> Sequence[str]:
    if host == "broken.test":
        raise Unavailable("no answer")
    return {"text.test": ["192.0.2.7"], "receiver": ["172.18.0.2"]}.get(host, [])


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("both.test", ["192.0.2.1", "2001:db8::1"]),
        ("text.test", ["192.0.2.7"]),
        ("receiver", ["172.18.0.2"]),
        ("nowhere.test", []),
    ],
)
async def test_name_servers_first_then_the_system(host: str, found: list[str]) -> None:
    assert list(await through(StaticResolver(ZONES), _system)(host)) == found


async def test_trouble_is_told() -> None:
    with pytest.raises(Unavailable):
        await through(StaticResolver(ZONES), _system)("broken.test")
