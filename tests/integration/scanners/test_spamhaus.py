"""Spamhaus Intelligence API against a double that speaks its protocol and counts logins (B-50)."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest
from pydantic import SecretStr

from fakes.json_api import Asked, JsonApi
from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Guard, GuardedClient
from mailcore.mime.parse import Message
from mailcore.scanners.base import Facts, Finding, Verdict
from mailcore.scanners.spamhaus import LOGIN_AGAIN_SECONDS, Spamhaus, registered

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
LISTED_IP, LISTED_DOMAIN = "198.51.100.7", "spammer.co.uk"


class Intel:
    """Its endpoints, for a token that it gave and that has not expired."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.tokens: list[str] = []
        self.good: set[str] = set()
        self.lifetime = 3_600.0
        self.down = False

    async def __call__(self, asked: Asked) -> tuple[int, Any]:
        await asyncio.sleep(0.01)
        if self.down:
            return 503, {}
        if asked.path == "/api/v1/login":
            if asked.json != {"username": "me", "password": "pass word", "realm": "intel"}:
                return 401, {"code": 401}
            self.tokens.append(f"token-{len(self.tokens)}")
            self.good.add(self.tokens[-1])
            return 200, {"code": 200, "token": self.tokens[-1], "expires": int(self.now + self.lifetime)}
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.good:
            return 401, {"code": 401}
        if asked.path == "/api/intel/v2/domains/tld":
            return 200, ["com", "example", "uk", "co.uk"]
        if asked.path == f"/api/intel/v1/byobject/cidr/ALL/listed/live/{LISTED_IP}":
            return 200, {"code": 200, "results": [{"dataset": "XBL", "ipaddress": LISTED_IP}, {"dataset": "CSS"}]}
        if asked.path.startswith("/api/intel/v1/byobject/cidr/ALL/listed/live/"):
            return 404, {"code": 404}
        if asked.path.startswith("/api/intel/v2/byobject/domain/") and asked.path.endswith("/listing"):
            return 200, {"is-listed": asked.path.split("/")[-2] == LISTED_DOMAIN}
        return 400, {}


def spamhaus(api: JsonApi, intel: Intel, password: str = "pass word") -> Spamhaus:
    client = GuardedClient(Guard("spamhaus", LOOPBACK))
    return Spamhaus(client, "me", SecretStr(password), base_url=api.url, clock=lambda: intel.now)


async def scan(one: Spamhaus, ip: str | None, mail_from: str = "a@shop.example") -> Finding:
    raw = b"From: a@shop.example\r\n\r\n"
    return await one.scan(raw, Facts("1", ip, "x", mail_from, (), len(raw), Message(raw).summary()))


def paths(api: JsonApi, part: str) -> list[str]:
    return [each.path for each in api.asked if part in each.path]


async def test_fifty_mails_are_one_login_and_one_list_of_domains() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        found = await asyncio.gather(*(scan(one, f"198.51.100.{100 + n}", f"a@shop{n}.example") for n in range(50)))
        again = [await scan(one, f"198.51.100.{100 + n}", f"a@shop{n}.example") for n in range(50)]
        await one.close()
    assert {each.verdict for each in [*found, *again]} == {Verdict.CLEAN}
    assert len(paths(api, "login")) == len(intel.tokens) == 1
    assert len(paths(api, "/tld")) == 1
    assert len(paths(api, "/live/")) == len(paths(api, "/listing")) == 50, "an answer is believed for a while"


async def test_who_is_listed() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        by_ip = await scan(one, LISTED_IP)
        by_domain = await scan(one, "198.51.100.8", "a@mail.Spammer.co.uk")
        await one.close()
    assert (by_ip.verdict, by_ip.tags, by_ip.reason) == (Verdict.LISTED, ("XBL", "CSS"), "spamhaus")
    assert by_domain.verdict is Verdict.LISTED and LISTED_DOMAIN in by_domain.detail


async def test_private_addresses_are_asked_about_nobody() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        for ip in ("10.0.0.1", "100.64.1.1", "fe80::1", None):
            await scan(one, ip)
        await one.close()
    assert paths(api, "/live/") == []


async def test_a_token_is_renewed_five_minutes_early() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        await scan(one, "198.51.100.1")
        intel.now += intel.lifetime - 301
        await scan(one, "198.51.100.2")
        assert len(intel.tokens) == 1
        intel.now += 2
        await asyncio.gather(*(scan(one, f"198.51.100.{n}") for n in range(20, 40)))
        await one.close()
    assert len(intel.tokens) == 2


async def test_a_token_that_is_refused_is_renewed_once() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        await scan(one, "198.51.100.1")
        intel.good.clear()
        assert (await scan(one, LISTED_IP)).verdict is Verdict.LISTED
        assert len(intel.tokens) == 2
        intel.good.add("")
        intel.good.clear()
        intel.lifetime = -1e9

        async def never_good(asked: Asked) -> tuple[int, Any]:
            if asked.path == "/api/v1/login":
                return await intel(asked)
            return 401, {}

        api.answer = never_good
        with pytest.raises(Unavailable, match="401"):
            await scan(one, "198.51.100.9")
        assert len(intel.tokens) == 3, "once, not for ever"
        await one.close()


async def test_a_wrong_password_is_said_and_not_tried_for_each_mail() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel, "wrong")
        with pytest.raises(Unavailable, match="SPAMHAUS_USERNAME") as refused:
            await scan(one, "198.51.100.1")
        assert "wrong" not in refused.value.public
        with pytest.raises(Unavailable):
            await scan(one, "198.51.100.2")
        assert len(paths(api, "login")) == 1
        intel.now += LOGIN_AGAIN_SECONDS + 1
        with pytest.raises(Unavailable):
            await scan(one, "198.51.100.3")
        assert len(paths(api, "login")) == 2
        await one.close()


async def test_a_server_that_is_down_is_no_all_clear() -> None:
    intel = Intel()
    async with JsonApi(intel) as api:
        one = spamhaus(api, intel)
        await scan(one, "198.51.100.1")
        intel.down = True
        with pytest.raises(Unavailable, match="503"):
            await scan(one, "198.51.100.2")
        await one.close()


def test_registered_domains() -> None:
    tlds = {"com", "uk", "co.uk"}
    assert registered("a.b.example.co.uk", tlds) == "example.co.uk"
    assert registered("example.com", tlds) == "example.com"
    assert registered("co.uk", tlds) == "co.uk"
    assert registered("host.unknown", tlds) == "host.unknown"
