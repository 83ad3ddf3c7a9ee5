"""A certificate authority for this data folder only, and one certificate of it for every listener of the local stack."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .folder import write_private

NAMES = ("localhost", "mail.postroom.test")
ADDRESSES = ("127.0.0.1", "::1")
_YEARS = 10
_RENEW_BEFORE = timedelta(days=30)


def ensure(folder: Path, now: datetime) -> None:
    """Makes ca.pem, cert.pem (with the CA behind it) and key.pem; again when the certificate is about to end."""
    certificate = folder / "cert.pem"
    if certificate.exists() and (folder / "ca.pem").exists() and (folder / "key.pem").exists():
        ends = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
        if ends - now > _RENEW_BEFORE:
            return
    begin, end = now - timedelta(days=1), now + timedelta(days=365 * _YEARS)
    ca_key = ec.generate_private_key(ec.SECP256R1())  # used once and not kept: nobody can issue more under this CA
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Postroom local CA {now.astimezone(UTC):%Y-%m-%d}")])
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ADDRESSES]
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAMES[-1])])
    own = (
        _builder(own_name, ca_name, key.public_key(), begin, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / "key.pem", private)
    write_private(folder / "ca.pem", ca.public_bytes(pem), 0o644)
    write_private(certificate, own.public_bytes(pem) + ca.public_bytes(pem), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
