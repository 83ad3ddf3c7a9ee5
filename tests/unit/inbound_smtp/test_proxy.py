"""PROXY headers, whole and in pieces; from whom one is expected."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_smtp.proxy import BadHeader, Header, Proxies, read

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = SIGNATURE + b"\x21\x11\0\x0c" + bytes((192, 0, 2, 9, 192, 0, 2, 1, 3, 232, 0, 25))
V6 = (
    SIGNATURE
    + b"\x21\x21\0\x24"
    + bytes.fromhex("20010db8" + "00" * 11 + "07" + "20010db8" + "00" * 11 + "01")
    + b"\0\x19\0\x19"
)


@pytest.mark.parametrize(
    ("octets", "version", "peer"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 25\r\n", 1, "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 25\r\n", 1, "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 50000 25\r\n", 1, "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n", 1, None),
        (b"PROXY UNKNOWN ff ff 1 2\r\n", 1, None),
        (V4, 2, "192.0.2.9"),
        (V6, 2, "2001:db8::7"),
        (SIGNATURE + b"\x20\0\0\0", 2, None),
        (SIGNATURE + b"\x21\x11\0\x10" + V4[16:] + b"\x04\0\x01x", 2, "192.0.2.9"),
        (SIGNATURE + b"\x21\x31\0\x04path", 2, None),
    ],
)
def test_headers(octets: bytes, version: int, peer: str | None) -> None:
    for end in range(len(octets)):
        assert read(bytearray(octets[:end]), version) is None
    assert read(bytearray(octets + b"EHLO x\r\n"), version) == Header(peer, len(octets))


@pytest.mark.parametrize(
    ("octets", "version"),
    [
        (b"EHLO x\r\n", 1),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000\r\n", 1),
        (b"PROXY TCP4 2001:db8::7 192.0.2.1 50000 25\r\n", 1),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 x 25\r\n", 1),
        (b"PROXY TCP4 192.0.2.\xff 192.0.2.1 1 25\r\n", 1),
        (b"PROXY TCP4 " + b"1" * 200, 1),
        (V4, 1),
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 25\r\n", 2),
        (SIGNATURE + b"\x31\x11\0\x0c" + V4[16:], 2),
        (SIGNATURE + b"\x21\x11\0\x04" + V4[16:], 2),
        (SIGNATURE + b"\x21\x11\xff\xff", 2),
    ],
)
def test_what_is_no_header(octets: bytes, version: int) -> None:
    with pytest.raises(BadHeader):
        read(octets, version)


@given(st.binary(max_size=60), st.sampled_from([1, 2]), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
def test_anything_is_read_or_refused(octets: bytes, version: int, before: bytes) -> None:
    try:
        found = read(before + octets, version)
    except BadHeader:
        return
    assert found is None or found.size <= len(before + octets)


def test_from_whom() -> None:
    assert not Proxies().expected("192.0.2.1")
    assert Proxies(1).expected("192.0.2.1")
    some = Proxies(2, [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")])
    assert [some.expected(ip) for ip in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "198.51.100.1", "")] == [
        *(True, True, True, False, False)
    ]
