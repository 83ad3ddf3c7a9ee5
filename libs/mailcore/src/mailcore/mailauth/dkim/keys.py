"""Signing keys: RSA for every verifier, Ed25519 beside it for those that know it (RFC 8301, RFC 8463)."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid

RSA_SHA256 = "rsa-sha256"
ED25519_SHA256 = "ed25519-sha256"
RSA_BITS = 2048
MIN_RSA_BITS = 1024
"""RFC 8301 §3.2."""

MAX_RSA_BITS = 4096
"""Of a key that signs: what verifiers must be able to take (RFC 8301 §3.2); a larger one would also cost several times as much."""
ADVISED_RSA_BITS = 2048
MAX_PEM = 16_384

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    selector: str
    domain: str
    algorithm: str
    """`rsa-sha256` or `ed25519-sha256`."""
    private: PrivateKey

    @classmethod
    def load(cls, selector: str, domain: str, private: bytes) -> Self:
        """From PKCS #8, DER or PEM. Costs about a millisecond (OpenSSL checks RSA keys): load once, keep the object.

        Raises Invalid: no such key, another kind of key, RSA under 1,024 bits, a selector or domain that is none.
        """
        key = _load(private)
        return cls(
            normalize_selector(selector),
            normalize_domain(domain),
            RSA_SHA256 if isinstance(key, RSAPrivateKey) else ED25519_SHA256,
            key,
        )

    def __reduce__(self) -> tuple[Callable[[str, str, bytes], SigningKey], tuple[str, str, bytes]]:
        """For a process of our own that signs: the key itself. Loaded there once."""
        octets = self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return _load_once, (self.selector, self.domain, octets)

    @property
    def record_name(self) -> str:
        """Where the public key is published (RFC 6376 §3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def public_txt(self) -> str:
        return public_txt(self.private)


@lru_cache(maxsize=1000)
def _load_once(selector: str, domain: str, private: bytes) -> SigningKey:
    return SigningKey.load(selector, domain, private)


def normalize_selector(text: str) -> str:
    """One label or several, also of digits alone (RFC 6376 §3.1). Raises Invalid."""
    below = "._domainkey"  # where it stands: no domain name ends in digits
    return normalize_domain(text + below, underscore=True).removesuffix(below)


def generate_rsa(bits: int = RSA_BITS) -> tuple[bytes, str]:
    """`(private key as PKCS #8 DER, value of the TXT record)`. Takes some 100 ms: run it in a thread."""
    return _exported(generate_private_key(65537, bits))


def generate_ed25519() -> tuple[bytes, str]:
    """`(private key as PKCS #8 DER, value of the TXT record)`."""
    return _exported(Ed25519PrivateKey.generate())


def import_pem(pem: str) -> tuple[str, bytes, str]:
    """`(algorithm, private key as PKCS #8 DER, value of the TXT record)` of somebody's own key. Takes a millisecond or more.

    PKCS #8 or PKCS #1, text before it allowed, as openssl writes it. Raises Invalid with what to do.
    """
    start = pem.find("-----BEGIN")
    if start < 0 or len(pem) > MAX_PEM:
        raise Invalid("The private key must be in PEM form: it begins with `-----BEGIN PRIVATE KEY-----`.")
    if pem.startswith("-----BEGIN PUBLIC", start) or pem.startswith("-----BEGIN RSA PUBLIC", start):
        raise Invalid("This is a public key. The private key is needed: it begins with `-----BEGIN PRIVATE KEY-----`.")
    if "ENCRYPTED" in pem[start:]:
        raise Invalid(
            "The private key is encrypted. Take the passphrase off: `openssl pkey -in key.pem -out plain.pem`."
        )
    key = _load(pem[start:].encode())
    if isinstance(key, RSAPrivateKey) and key.key_size > MAX_RSA_BITS:
        raise Invalid(
            f"An RSA key for DKIM has at most {MAX_RSA_BITS} bits: receivers need not take a larger one (RFC 8301)."
        )
    return (RSA_SHA256 if isinstance(key, RSAPrivateKey) else ED25519_SHA256, *_exported(key))


def public_txt(key: PrivateKey) -> str:
    """The TXT record's value (RFC 6376 §3.6.1). A string in DNS ends at 255 octets: an RSA key takes two of them."""
    if isinstance(key, RSAPrivateKey):
        # RFC 6376 §3.6.1: p= of RSA is a SubjectPublicKeyInfo, as all verifiers read it
        raw, kind = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "rsa"
    else:
        # RFC 8463 §4: the bare 32 octets
        raw, kind = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), "ed25519"
    return f"v=DKIM1; k={kind}; p={base64.b64encode(raw).decode()}"


def _exported(key: PrivateKey) -> tuple[bytes, str]:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), public_txt(key)


def _load(private: bytes) -> PrivateKey:
    load = load_pem_private_key if private.lstrip().startswith(b"-----BEGIN") else load_der_private_key
    try:
        key = load(private, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Invalid("The DKIM key is not a private key in PKCS #8 form.") from error
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise Invalid("A DKIM key is RSA or Ed25519.")
    if isinstance(key, RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise Invalid(f"An RSA key for DKIM has at least {MIN_RSA_BITS} bits.")
    return key
