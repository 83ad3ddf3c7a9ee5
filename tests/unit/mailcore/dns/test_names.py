import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dns.names import is_domain, is_host, normalize_domain
from mailcore.kit.errors import Invalid


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
        ("XN--MNCHEN-3YA.Example", "xn--mnchen-3ya.example"),
        ("mu\u0308nchen.example", "xn--mnchen-3ya.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("faß.example", "xn--fa-hia.example"),
        ("r3---sn-4g5e.example", "r3---sn-4g5e.example"),
        ("localhost", "localhost"),
        ("3com.example", "3com.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_one_normal_form(text: str, normal: str) -> None:
    assert normalize_domain(text) == normal
    assert normalize_domain(normal) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.b..",
        "-a.b",
        "a-.b",
        "a b.c",
        "a_b.c",
        "192.0.2.1",
        "[192.0.2.1]",
        "::1",
        "a/b",
        "a\r\nb.c",
        "a.b\n",
        "a.b\x00",
        "a" * 64 + ".b",
        ".".join(["a" * 49] * 6),
        "ü" * 250 + ".b",
        "xn--.example",
        "xn--a.example",
        "xn--\uff0e.example",
        "xn--zzzzzzzzzz99999999.example",
        "\u202e.example",
        "a\u200b\u200d.example",
        "\ud800.example",
        "☃\ufe0f.\u3002",
        "１９２.0.2.1",
    ],
)
def test_what_is_no_domain(text: str) -> None:
    with pytest.raises(Invalid):
        normalize_domain(text)
    assert not is_domain(text)


def test_underscores_only_on_request() -> None:
    assert normalize_domain("_DMARC.example.com", underscore=True) == "_dmarc.example.com"
    assert normalize_domain("s1._domainkey.münchen.example", underscore=True) == "s1._domainkey.xn--mnchen-3ya.example"
    with pytest.raises(Invalid):
        normalize_domain("_dmarc.example.com")


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("mx.example.com", True),
        ("mx_1.example.com", True),
        ("com", True),
        ("xn--i-7iq.example", True),  # of an emoji: no valid A-label, and yet a host in the DNS
        ("a" * 63 + ".example", True),
        ("a" * 64 + ".example", False),
        (".".join(["a" * 49] * 6), False),
        ("", False),
        ("a..b", False),
        ("a,b.example", False),
        (r"\255\255.example", False),
        ("-a.example", False),
        ("a-.example", False),
        ("a.example\n", False),
        ("192.0.2.1", False),
        ("müx.example", False),
    ],
)
def test_what_the_dns_may_name_as_a_host(name: str, host: bool) -> None:
    assert is_host(name) is host


@given(st.text(max_size=80) | st.text(alphabet="xn-é.aß\u200d。١", max_size=30))
def test_anything_is_a_stable_name_or_invalid(text: str) -> None:
    try:
        name = normalize_domain(text)
    except Invalid:
        return
    assert name.isascii()
    assert name == name.lower()
    assert normalize_domain(name) == name
