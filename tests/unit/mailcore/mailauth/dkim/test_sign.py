import base64
import hashlib
import time

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import relaxed_body, relaxed_field, split_fields
from mailcore.mailauth.dkim.keys import ED25519_SHA256, SigningKey, generate_ed25519, generate_rsa
from mailcore.mailauth.dkim.sign import OVERSIGNED, SIGNED, sign

NOW = int(time.time())
"""dkimpy compares t= and x= with the clock of the machine."""
HEAD = (
    b"From: Acme <a@example.com>\r\nTo: b@example.org\r\nSubject: Hello\r\nDate: Sat, 21 Nov 2026 06:00:00 +0000\r\n"
    b"Message-ID: <1@example.com>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 7bit\r\n"
)
BODY = b"Hi,\r\n\r\nwe won  the game. \r\n\r\n\r\n"


def load(selector: str, made: tuple[bytes, str]) -> SigningKey:
    return SigningKey.load(selector, "example.com", made[0])


RSA = load("rsa", generate_rsa())
ED25519 = load("ed", generate_ed25519())


def dkimpy_accepts(raw: bytes, key: SigningKey) -> bool:
    def txt(name: bytes, timeout: float = 5) -> bytes:
        return key.public_txt.encode() if name == f"{key.record_name}.".encode() else b""

    return bool(dkim.verify(raw, dnsfunc=txt))


def tags_of(field: bytes) -> dict[str, str]:
    value = field.decode().partition(":")[2].replace("\r\n", "")
    return {k.strip(): v.strip() for k, _, v in (tag.partition("=") for tag in value.split(";"))}


def test_the_tags() -> None:
    field = sign(HEAD, BODY, [RSA], now=NOW)
    tags = tags_of(field)
    assert (tags["v"], tags["a"], tags["c"]) == ("1", "rsa-sha256", "relaxed/relaxed")
    assert (tags["d"], tags["s"]) == ("example.com", "rsa")
    assert (int(tags["t"]), int(tags["x"])) == (NOW, NOW + 7 * 86_400)
    assert "l" not in tags
    assert max(map(len, field.split(b"\r\n"))) <= 78
    assert field.endswith(b"\r\n")
    assert "x" not in tags_of(sign(HEAD, BODY, [RSA], now=NOW, expires_after=None))


def test_every_field_is_signed_once_more_than_it_occurs() -> None:
    head = HEAD + b"List-Unsubscribe: <https://x.example>\r\nReferences: <a@b>\r\nReferences: <c@d>\r\nX-Other: 1\r\n"
    names = [name.strip() for name in tags_of(sign(head, BODY, [RSA], now=NOW))["h"].split(":")]
    for name in OVERSIGNED:
        expected = 1 if name in (b"cc", b"reply-to", b"list-unsubscribe-post") else 2
        assert names.count(name.decode()) == expected
    assert names.count("references") == 2
    assert names.count("content-transfer-encoding") == 1
    assert "x-other" not in names


def test_both_verify() -> None:
    raw = sign(HEAD, BODY, [RSA], now=NOW) + HEAD + b"\r\n" + BODY
    assert dkimpy_accepts(raw, RSA)
    raw = sign(HEAD, BODY, [ED25519], now=NOW) + HEAD + b"\r\n" + BODY
    assert dkimpy_accepts(raw, ED25519)
    assert not dkimpy_accepts(raw.replace(b"we won", b"we lost"), ED25519)
    assert not dkimpy_accepts(raw.replace(b"Hello", b"Hullo"), ED25519)


def test_a_field_a_key_in_their_order() -> None:
    both = sign(HEAD, BODY, [RSA, ED25519], now=NOW)
    assert both == sign(HEAD, BODY, [RSA], now=NOW) + sign(HEAD, BODY, [ED25519], now=NOW)
    assert sign(HEAD, BODY, [], now=NOW) == b""
    assert dkimpy_accepts(both + HEAD + b"\r\n" + BODY, RSA)


@pytest.mark.parametrize("name", OVERSIGNED)
def test_nothing_can_be_added_before_or_after(name: bytes) -> None:
    field = sign(HEAD, BODY, [RSA], now=NOW)
    ed_field = sign(HEAD, BODY, [ED25519], now=NOW)
    added = name.title() + b": <x@evil.example>\r\n"
    for head in (added + HEAD, HEAD + added):
        assert not dkimpy_accepts(field + head + b"\r\n" + BODY, RSA)
        assert not dkimpy_accepts(ed_field + head + b"\r\n" + BODY, ED25519)
    assert dkimpy_accepts(field + b"Received: x\r\nX-Added: y\r\n" + HEAD + b"X-Added: y\r\n\r\n" + BODY, RSA)


CHANGES = [(b"Hello", b"Hullo"), (b"b@example.org", b"c@example.org"), (b"7bit", b"8bit"), (b"game", b"match")]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_nothing_can_be_changed(old: bytes, new: bytes) -> None:
    raw = sign(HEAD, BODY, [RSA], now=NOW) + HEAD + b"\r\n" + BODY
    assert not dkimpy_accepts(raw.replace(old, new), RSA)
    assert not dkimpy_accepts(raw + b"more\r\n", RSA)


VALUES = st.lists(st.text(alphabet='ab=?;:<@>"\\ \t\xe9', min_size=1, max_size=20).filter(str.strip), max_size=4)
NAMES = st.sampled_from([n.decode().title() for n in (*OVERSIGNED[1:], *SIGNED)] + ["X-Other", "received", "SUBJECT"])
LINES = st.lists(st.text(alphabet="ab \t\xe9.=", max_size=15), max_size=10)


def a_field(name: str, blanks: str, parts: list[str]) -> bytes:
    return f"{name}:{blanks}".encode() + "\r\n ".join(parts or ["x"]).encode("latin-1") + b"\r\n"


FIELDS = st.lists(st.builds(a_field, NAMES, st.sampled_from(["", " ", "  ", "\t", "\r\n "]), VALUES), max_size=12)


@settings(max_examples=300)
@given(before=FIELDS, after=FIELDS, lines=LINES, ends=st.booleans())
def test_dkimpy_accepts_any_mail(before: list[bytes], after: list[bytes], lines: list[str], ends: bool) -> None:
    head = b"".join(before) + b"From: a@example.com\r\n" + b"".join(after)
    body = "\r\n".join(lines).encode("latin-1") + (b"\r\n" if ends else b"")
    signed = sign(head, body, [RSA, ED25519], now=NOW)
    second = signed.index(b"DKIM-Signature:", 1)  # four letters alone may stand in the base64 of the first
    rsa_field, ed_field = signed[:second], signed[second:]
    # SMTP ends the last line (RFC 5321 §4.1.1.4)
    sent = head + b"\r\n" + body + (b"" if not body or body.endswith(b"\r\n") else b"\r\n")
    assert dkimpy_accepts(rsa_field + sent, RSA)
    assert dkimpy_accepts(ed_field + sent, ED25519)


@given(
    st.binary(max_size=200) | st.text(alphabet="From: a\t\r\n", max_size=60).map(str.encode), st.binary(max_size=100)
)
def test_anything_is_signed_or_invalid(head: bytes, body: bytes) -> None:
    try:
        field = sign(head, body, [ED25519], now=NOW)
    except Invalid:
        return
    assert field.startswith(b"DKIM-Signature:")


def test_no_from_no_signature() -> None:
    with pytest.raises(Invalid):
        sign(b"To: a@b.c\r\n", b"", [RSA], now=NOW)


# RFC 8463 appendix A: the message, both signatures, both keys
SAMPLE_HEAD = (
    b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
)
SAMPLE_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
SAMPLE_TAGS = (
    b"DKIM-Signature: v=1; a=%b; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=%b; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b="
)
SAMPLE_ED25519 = "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
SAMPLE_RSA = (
    "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz"
    "dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8="
)
SAMPLE_ED25519_KEY = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
SAMPLE_RSA_PUBLIC = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3Fu"
    "tACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)


def sample_data(algorithm: bytes, selector: bytes) -> bytes:
    fields = dict(split_fields(SAMPLE_HEAD))
    signed = [relaxed_field(name, fields[name]) for name in (b"from", b"to", b"subject", b"date", b"message-id")]
    return b"\r\n".join([*signed, relaxed_field(b"dkim-signature", SAMPLE_TAGS % (algorithm, selector))])


def test_rfc8463_sample() -> None:
    digest = hashlib.sha256(relaxed_body(SAMPLE_BODY)).digest()
    assert base64.b64encode(digest) == b"2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    data = sample_data(b"ed25519-sha256", b"brisbane")
    key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(SAMPLE_ED25519_KEY))
    # Ed25519 has one signature for one message: ours equals the RFC's
    assert base64.b64encode(key.sign(hashlib.sha256(data).digest())).decode() == SAMPLE_ED25519
    signing = SigningKey("brisbane", "football.example.com", ED25519_SHA256, key)
    assert signing.public_txt == "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
    public = load_der_public_key(base64.b64decode(SAMPLE_RSA_PUBLIC))
    assert isinstance(public, RSAPublicKey)
    public.verify(base64.b64decode(SAMPLE_RSA), sample_data(b"rsa-sha256", b"test"), PKCS1v15(), SHA256())
