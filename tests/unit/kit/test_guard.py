from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

import suites
from mailcore.kit.addresses import refusal
from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Blocked, Guard

_VECTORS = suites.vectors("ssrf-vectors") if suites.available("ssrf-vectors") else {}
needs_suite = pytest.mark.skipif(
    not _VECTORS, reason="suite ssrf-vectors is not beside the checkout (set POSTROOM_SUITES)"
)
# The last ones of the suite were made with the private networks of RFC 1918 opened.
_PRIVATE = [ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12"), ip_network("192.168.0.0/16")]


class Names:
    """A name server whose answers are given in turn; the last one stays."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host, [[]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@needs_suite
def test_addresses_of_the_suite() -> None:
    assert len(_VECTORS["ip"]) == 86
    for vector in _VECTORS["ip"]:
        address = ip_address(vector["ip"])
        opened = _PRIVATE if vector["allow"] and any(address in network for network in _PRIVATE) else []
        assert (refusal(address, opened) is None) == vector["allow"], vector


@needs_suite
async def test_spellings_of_the_suite_are_blocked() -> None:
    names = Names()
    names.answers["127.0.0.1.nip.io"] = [["127.0.0.1"]]
    guard = Guard("webhooks", resolve=names)
    for host in _VECTORS["host_spellings_must_block"]:
        with pytest.raises(Blocked):
            await guard.check_host(host.removeprefix("[").removesuffix("]"), 80)
        with pytest.raises(Blocked):
            await guard.addresses(guard.check_url(f"http://{host}/").host)
    assert set(names.asked) == {"127.0.0.1.nip.io"}


@needs_suite
def test_urls_of_the_suite_are_blocked() -> None:
    guard = Guard("webhooks", resolve=Names())
    for url in _VECTORS["urls_must_block"]:
        with pytest.raises(Blocked):
            guard.check_url(url)


def test_a_url_is_read_once_and_for_all() -> None:
    target = Guard("webhooks").check_url("HTTPS://Ex-ample.com.:8443/a b".replace(" ", "%20") + "?q=ü&x[]=1#fragment")
    assert (target.scheme, target.host, target.port) == ("https", "ex-ample.com", 8443)
    assert target.path == "/a%20b?q=%C3%BC&x[]=1"
    assert target.host_header == "ex-ample.com:8443"
    assert Guard("webhooks").check_url("http://example.com?x").path == "/?x"
    assert Guard("webhooks").check_url("https://[2606:4700::1111]:443/").host_header == "[2606:4700::1111]"
    with pytest.raises(Blocked, match="2048"):
        Guard("webhooks").check_url("https://example.com/" + "a" * 2048)


def test_a_closed_address_says_how_it_is_opened() -> None:
    with pytest.raises(
        Blocked, match=r"10\.0\.0\.7 is closed .*RFC 1918.*POSTROOM_NETWORK__ALLOW__WEBHOOKS=10\.0\.0\.7/32"
    ):
        Guard("webhooks").check_url("https://10.0.0.7/hook")
    assert Guard("webhooks", _PRIVATE).check_url("https://10.0.0.7/hook").port == 443
    with pytest.raises(Blocked, match="ALLOW__IMAP"):
        Guard("imap", [ip_network("10.0.0.0/8")]).check_url("https://localhost/hook")


async def test_every_address_must_be_open() -> None:
    guard = Guard(
        "imap", resolve=Names(mixed_example=[["8.8.8.8", "192.168.0.1"]], mapped_example=[["::ffff:127.0.0.1"]])
    )
    for host in ("mixed.example", "mapped.example"):
        with pytest.raises(Blocked) as refused:
            await guard.check_host(host, 993)
        assert "192.168" not in refused.value.public and "127.0" not in refused.value.public
    assert not refused.value.temporary


async def test_a_name_without_address_is_temporary() -> None:
    with pytest.raises(Unavailable):
        await Guard("imap", resolve=Names()).check_host("nowhere.example", 993)


async def test_addresses_in_order_and_once() -> None:
    guard = Guard("imap", resolve=Names(ok_example=[["2606:4700::1111", "1.1.1.1", "::ffff:1.1.1.1"]]))
    assert await guard.check_host("OK.example.", 993, ports={143, 993}) == ["2606:4700::1111", "1.1.1.1"]
    with pytest.raises(Blocked, match="Port 25"):
        await guard.check_host("ok.example", 25, ports={143, 993})


async def test_localhost_is_never_asked_for() -> None:
    names = Names()
    guard = Guard("webhooks", [ip_network("127.0.0.0/8")], resolve=names)
    assert await guard.check_host("LocalHost", 80) == ["127.0.0.1"]
    assert await guard.check_host("app.localhost", 80) == ["127.0.0.1"]
    assert names.asked == []


async def test_lookups_of_one_name_are_one_and_a_hung_one_ends() -> None:
    asked = []
    answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def resolve(host: str) -> list[str]:
        asked.append(host)
        return await answer

    guard = Guard("webhooks", resolve=resolve)
    with pytest.raises(Unavailable, match="took longer"):
        await guard.check_host("slow.example", 80, deadline=0.01)
    waiting = [asyncio.create_task(guard.check_host("slow.example", 80)) for _ in range(20)]
    await asyncio.sleep(0)
    answer.set_result(["1.1.1.1"])
    assert await asyncio.gather(*waiting) == [["1.1.1.1"]] * 20
    assert asked == ["slow.example"]
