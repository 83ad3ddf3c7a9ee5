from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.addresses import parse_address, parse_host, refusal
from mailcore.kit.errors import Invalid


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Example.COM.", "example.com"),
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("my_app", "my_app"),
        ("127.0.0.1", IPv4Address("127.0.0.1")),
        ("127.0.0.1.", IPv4Address("127.0.0.1")),
        ("0177.0.0.1", IPv4Address("127.0.0.1")),
        ("0x7f.0.0.1", IPv4Address("127.0.0.1")),
        ("0X7F000001", IPv4Address("127.0.0.1")),
        ("2130706433", IPv4Address("127.0.0.1")),
        ("017700000001", IPv4Address("127.0.0.1")),
        ("127.1", IPv4Address("127.0.0.1")),
        ("127.0.257", IPv4Address("127.0.1.1")),
        ("0x", IPv4Address("0.0.0.0")),
        ("①②⑦.⓪.⓪.①", IPv4Address("127.0.0.1")),
        ("127。0。0。1", IPv4Address("127.0.0.1")),
        ("[::1]", IPv6Address("::1")),
        ("::1", IPv6Address("::1")),
        ("[::ffff:7f00:1]", IPv4Address("127.0.0.1")),
        ("[0:0:0:0:0:ffff:127.0.0.1]", IPv4Address("127.0.0.1")),
    ],
)
def test_every_spelling_has_one_form(text: str, host: object) -> None:
    assert parse_host(text) == host


NO_HOSTS = (
    ". a..b 256.1.1.1 1.2.3.4.5 08.1.1.1 1.2.3.0xg foo.0x4 4294967296 127.0.0.1.. a%2fb.com [fe80::1%25eth0] [::1"
)
NO_HOSTS += " [::1]x [v1.x] -a.com xn--\u00fc.com"


@pytest.mark.parametrize(
    "text",
    [
        *NO_HOSTS.split(),
        "",
        "a b.com",
        "a" * 64 + ".com",
        "a." * 127 + "com",
        "\ud800.com",
        "example.com\x00",
        "1" * 5000,
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_host(text)


@given(st.text(max_size=60))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except Invalid:
        return
    if isinstance(host, str):
        assert host.isascii()
        assert host == parse_host(host)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "{0:#x}", "0{0:o}"]))
def test_numbers_are_the_address_they_stand_for(value: int, form: str) -> None:
    assert parse_host(form.format(value)) == IPv4Address(value)


CLOSED = """
0.0.0.0 10.255.255.255 100.64.0.0 127.8.8.8 168.63.129.16 169.254.169.254 172.31.255.255 192.168.255.255 198.19.255.255
224.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:10.0.0.1 ::ffff:0:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2001::1 2001:1f0::1
2002:a00:1:: fc00:: fdff::1 fe80::1 fe80::1%2 fec0::1 ff02::1 2606:4700::5efe:10.0.0.1 2606:4700::200:5efe:10.0.0.1
"""


@pytest.mark.parametrize("address", CLOSED.split())
def test_closed(address: str) -> None:
    assert refusal(parse_address(address))


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.0", "2606:4700::1111", "::ffff:8.8.8.8"]
)
def test_open(address: str) -> None:
    assert refusal(ip_address(address)) is None


def test_opened_networks_open_no_more_than_themselves() -> None:
    allow = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    assert refusal(ip_address("10.1.2.3"), allow) is None
    assert refusal(ip_address("::ffff:10.1.2.3"), allow) is None
    assert refusal(ip_address("fd12::1"), allow) is None
    assert refusal(ip_address("10.2.0.1"), allow)
    assert refusal(ip_address("64:ff9b::10.1.2.3"), allow)
