"""`postroom doctor` and the hourly look say which scanner is away, and what leads to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fakes.json_api import JsonApi
from integration.scanners.test_spamhaus import Intel
from mailcore.dns.required import Published
from mailcore.dns.resolver import DnsResolver
from mailcore.flow import health, health_scanners
from mailcore.flow.health_checks import Scene
from mailcore.kit.settings import Scanners
from peers import free_port

RESOLVER = DnsResolver(["127.0.0.1:9"], timeout=0.1)


@pytest.fixture(autouse=True)
def _unhurried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_scanners, "SECONDS", 60.0)


def at(name: str, port: int) -> dict[str, Any]:
    return {name: f"http://127.0.0.1:{port}" if name == "rspamd" else f"127.0.0.1:{port}"}


@pytest.mark.parametrize("name", ["spamd", "rspamd", "clamd"])
async def test_a_scanner_is_well_or_away(name: str, request: pytest.FixtureRequest) -> None:
    there = Scanners(**at(name, request.getfixturevalue(name).port), **{f"{name}_seconds": 60.0})
    (found,) = await health_scanners.examine(there, RESOLVER)
    assert (found.check, found.subject, found.status, found.advice) == ("scanner", name, "ok", "")
    for fails, meanwhile in (("closed", "waits until"), ("open", "goes on without being scanned")):
        away = Scanners(**at(name, free_port()), **{f"{name}_fail": fails})
        (found,) = await health_scanners.examine(away, RESOLVER)
        assert (found.subject, found.status) == (name, "wrong")
        assert f"{name} is away" in found.text and meanwhile in found.text
        assert f"POSTROOM_SCANNERS__{name.upper()} leads to it" in found.advice and "\n" not in found.advice


async def test_spamhaus_is_well_away_or_does_not_know_us() -> None:
    intel = Intel()
    intel.now = time.time()
    async with JsonApi(intel) as api:
        known = {"spamhaus_username": "me", "spamhaus_url": api.url}
        settings = Scanners(**known, spamhaus_password=SecretStr("pass word"))
        (found,) = await health_scanners.examine(settings, RESOLVER)
        assert (found.subject, found.status) == ("spamhaus", "ok")
        (found,) = await health_scanners.examine(Scanners(**known, spamhaus_password=SecretStr("x")), RESOLVER)
        assert found.status == "wrong" and "POSTROOM_SCANNERS__SPAMHAUS_USERNAME" in found.advice
        intel.down = True
        (found,) = await health_scanners.examine(settings, RESOLVER)
        assert found.status == "wrong" and "pass word" not in found.text


async def test_a_socket_of_another_machine_is_not_called_away(tmp_path: Path) -> None:
    (found,) = await health_scanners.examine(Scanners(clamd="/run/of/another/machine/clamd.ctl"), RESOLVER)
    assert (found.status, found.advice) == ("unknown", "")
    (found,) = await health_scanners.examine(Scanners(clamd=str(tmp_path / "clamd.ctl")), RESOLVER)
    assert found.status == "wrong"


async def test_it_stands_among_the_findings_also_where_all_mail_is_caught() -> None:
    caught = Scene("catch", (), Published("mx.test", "ip4:127.0.0.1"), scanners=Scanners(**at("clamd", free_port())))
    found = await health.examine(caught, RESOLVER)
    assert [(each.check, each.status) for each in found] == [("route", "ok"), ("scanner", "wrong")]
    caught = Scene("catch", (), Published("mx.test", "ip4:127.0.0.1"))
    assert [each.check for each in await health.examine(caught, RESOLVER)] == ["route"], "none is set, none is missed"
