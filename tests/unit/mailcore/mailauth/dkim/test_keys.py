import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_der_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.keys import SigningKey, generate_ed25519, generate_rsa, import_pem


def test_rsa() -> None:
    private, record = generate_rsa()
    key = SigningKey.load("s1", "Example.COM", private)
    assert (key.algorithm, key.record_name) == ("rsa-sha256", "s1._domainkey.example.com")
    assert key.public_txt == record
    tags = dict(tag.strip().split("=", 1) for tag in record.split(";"))
    assert (tags["v"], tags["k"]) == ("DKIM1", "rsa")
    public = load_der_public_key(base64.b64decode(tags["p"], validate=True))
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 2048


def test_ed25519() -> None:
    private, record = generate_ed25519()
    key = SigningKey.load("s2.mail", "münchen.example", private)
    assert (key.algorithm, key.record_name) == ("ed25519-sha256", "s2.mail._domainkey.xn--mnchen-3ya.example")
    assert key.public_txt == record
    assert record.startswith("v=DKIM1; k=ed25519; p=")
    assert len(base64.b64decode(record.rpartition("p=")[2], validate=True)) == 32


def test_pem() -> None:
    private, record = generate_ed25519()
    pem = load_der_private_key(private, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert SigningKey.load("s", "example.com", pem).public_txt == record


def exported(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_keys_that_do_not_sign_dkim() -> None:
    for private in (b"", b"x", b"-----BEGIN PRIVATE KEY-----\nx\n", exported(ec.generate_private_key(ec.SECP256R1()))):
        with pytest.raises(Invalid):
            SigningKey.load("s", "example.com", private)
    with pytest.raises(Invalid):
        SigningKey.load("s", "example.com", generate_rsa(1024)[0][:-1])


def test_bad_names() -> None:
    private, _ = generate_ed25519()
    for selector, domain in (("", "a.b"), ("s;x=1", "a.b"), ("s\r\nX: y", "a.b"), ("s", ""), ("s", "a.b;i=@c")):
        with pytest.raises(Invalid):
            SigningKey.load(selector, domain, private)


@given(st.binary(max_size=200))
def test_anything_is_a_key_or_invalid(private: bytes) -> None:
    with pytest.raises(Invalid):
        SigningKey.load("s", "example.com", private)


def pem(private: bytes, form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    exported: bytes = load_der_private_key(private, None).private_bytes(Encoding.PEM, form, NoEncryption())
    return exported.decode()


def test_keys_of_ones_own() -> None:
    for made, forms in (
        (generate_rsa(1024), (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)),
        (generate_ed25519(), (PrivateFormat.PKCS8,)),
    ):
        for form in forms:
            algorithm, private, record = import_pem(f"Bag Attributes\n  x: y\n{pem(made[0], form)}")
            assert record == made[1]
            key = SigningKey.load("s", "example.com", private)
            assert (key.algorithm, key.public_txt) == (algorithm, record)


@pytest.mark.parametrize(
    "form", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "CERTIFICATE"]
)
def test_what_is_no_key_of_ones_own(form: str) -> None:
    with pytest.raises(Invalid):
        import_pem(f"-----BEGIN {form}-----\nAAAA\n-----END {form}-----\n")


@given(st.text(max_size=200))
def test_anything_is_a_key_of_ones_own_or_invalid(text: str) -> None:
    for each in (text, "-----BEGIN " + text, f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----"):
        with pytest.raises(Invalid):
            import_pem(each)
