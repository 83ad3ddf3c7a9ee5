"""What TLS with a hop must come to: what its own side asks for, what the sender asks for, and whether the handshake kept to it.

1. `Security`   of a hop, found with its addresses: DANE (RFC 7672), MTA-STS (RFC 8461), or neither
2. `demand`     the stricter of that and the destination's policy
3. `check_dane` the peer's certificates against the hop's TLSA records, after a handshake that verified nothing
4. `failure_of` why a handshake failed, in the words of TLS reports (RFC 8460 §4.3)
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from mailcore.dns.resolver import TlsaRecord
from mailcore.dns.tlsa import END_ENTITY, matches
from mailcore.kit.guard import tls_context
from mailcore.smtp.reply import Reply
from mailcore.transport.wire import Broken

MAX_PATH = 10
"""Certificates between a peer's own and the anchor."""


class Kind(StrEnum):
    """What a hop's side says about TLS with it."""

    NONE = "none"
    """Nothing: opportunistic."""
    DANE = "dane"
    """Its certificate is the one in the DNS."""
    DANE_UNUSABLE = "dane-unusable"
    """It has TLSA records, none of a kind that SMTP can check: TLS all the same, unverified (RFC 7672 §2.2)."""
    STS = "mta-sts"
    """A certificate for the host's name, from an authority the public trusts (RFC 8461 §4.1)."""
    STS_TESTING = "mta-sts-testing"
    """As STS, but what fails is reported and the mail goes all the same (§5)."""
    CLOSED = "closed"
    """Nothing may be sent there; `Security.why` says why."""


class FailureType(StrEnum):
    """RFC 8460 §4.3."""

    STARTTLS = "starttls-not-supported"
    HOST = "certificate-host-mismatch"
    EXPIRED = "certificate-expired"
    UNTRUSTED = "certificate-not-trusted"
    OTHER = "validation-failure"
    TLSA = "tlsa-invalid"
    DNSSEC = "dnssec-invalid"
    STS_FETCH = "sts-policy-fetch-error"
    STS_INVALID = "sts-policy-invalid"
    STS_WEBPKI = "sts-webpki-invalid"


@dataclass(frozen=True, slots=True)
class Security:
    kind: Kind = Kind.NONE
    records: tuple[TlsaRecord, ...] = ()
    """Of DANE: the usable ones, never empty."""
    names: tuple[str, ...] = ()
    """Of DANE: what a certificate under a trust anchor may be for; the first is asked for by SNI (RFC 7672 §3.2.3)."""
    why: str = ""
    """Of CLOSED: the reason. Of STS_TESTING: what has failed already, the host not being one of the policy's."""
    failure: FailureType | None = None
    """With `why`."""

    @property
    def report_type(self) -> str:
        """The policy-type of TLS reports (RFC 8460 §4.4)."""
        if self.kind in (Kind.DANE, Kind.DANE_UNUSABLE) or self.failure is FailureType.DNSSEC:
            return "tlsa"
        return "no-policy-found" if self.kind is Kind.NONE else "sts"


OPPORTUNISTIC = Security()


class Demand(IntEnum):
    """What one connection's TLS must be, the strictest last."""

    NONE = 0
    """No STARTTLS."""
    MAY = 1
    """TLS where it works, clear text where not (RFC 7435)."""
    ENCRYPT = 2
    """TLS, with any certificate."""
    PUBLIC = 3
    """A certificate for the host, by a known authority."""
    DANE = 4
    CLOSED = 5
    """Not to be connected to."""


class Insecure(Broken):
    """TLS did not come to what was asked for. Nothing of the mail was said."""

    def __init__(self, rule: str, text: str, failure: FailureType, reply: Reply | None = None) -> None:
        super().__init__(rule, text, reply)
        self.failure = failure
        self.passing = False
        """The peer said nothing of it: the connection ended, or time was up."""


_BY_KIND = {
    Kind.DANE: Demand.DANE,
    Kind.DANE_UNUSABLE: Demand.ENCRYPT,
    Kind.STS: Demand.PUBLIC,
    Kind.CLOSED: Demand.CLOSED,
}


def demand(security: Security, policy: str, *, requiretls: bool = False) -> Demand:
    """What a connection must be. `policy`: of the destination, a TlsPolicy.

    A certificate that DANE vouches for is as good as one of a known authority, also for RFC 8689 §4.2.1.
    """
    if policy == "not-required" and not requiretls:
        return Demand.MAY
    verified = requiretls or policy in ("required", "implicit")
    own = Demand.PUBLIC if verified else Demand.NONE if policy == "none" else Demand.MAY
    return own if policy == "none" else max(_BY_KIND.get(security.kind, Demand.MAY), own)


def policy_name(security: Security, demand: Demand) -> str:
    """For people: what ruled a connection."""
    if demand is Demand.NONE:
        return "none"
    if security.kind is Kind.STS_TESTING:
        return security.kind.value
    if demand is Demand.MAY:
        return "opportunistic"
    if security.kind is Kind.CLOSED:
        return "dane" if security.report_type == "tlsa" else "mta-sts"
    return "required" if security.kind is Kind.NONE else security.kind.value


def rule_of(security: Security, default: str) -> str:
    """Which rule decided when TLS with the hop failed: its side's policy, or `default`."""
    if security.kind is Kind.STS_TESTING:  # it keeps no mail back
        return default
    return {"tlsa": "dane-failed", "sts": "mta-sts-failed"}.get(security.report_type, default)


def asked_by(security: Security) -> str:
    """For our words: who asks for TLS."""
    if security.kind is Kind.STS_TESTING:
        return "the recipient's MTA-STS policy, in testing, asks for TLS"
    return {
        "dane-failed": "the host's DANE records require TLS",
        "mta-sts-failed": "the recipient's MTA-STS policy requires TLS",
    }.get(rule_of(security, ""), "TLS is required")


# ---- contexts --------------------------------------------------------------------------------------------------------


@functools.cache
def verifying_context() -> ssl.SSLContext:
    """Against the authorities of the system and Mozilla's; reading them takes tens of milliseconds, hence once."""
    return tls_context()


@functools.cache
def encrypting_context() -> ssl.SSLContext:
    """TLS as strong as where it is verified, with any certificate. Under DANE the check comes after the handshake."""
    return _unverified()


@functools.cache
def opportunistic_context() -> ssl.SSLContext:
    """TLS against those who only listen, however weak: what would go in its place is clear text (RFC 7435 §3)."""
    context = _unverified()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED  # TLS 1.0: SSL 3 is off by the options of any context
    context.set_ciphers(
        "DEFAULT:@SECLEVEL=0"
    )  # old ciphers, short keys, SHA-1; none without a certificate or without a cipher
    # servers of that age do not know RFC 5746; the name is in Python 3.12
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    return context


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


# ---- DANE ------------------------------------------------------------------------------------------------------------


def check_dane(security: Security, chain: Sequence[bytes], now: datetime) -> None:
    """Raises Insecure when none of the records stands for the peer. `chain`: DER, the peer's own certificate first."""
    if not chain:
        raise Insecure("dane-failed", "the peer showed no certificate", FailureType.OTHER)
    try:
        certificates = [x509.load_der_x509_certificate(octets) for octets in chain]
        keys = [
            each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for each in certificates
        ]
    except Exception:  # a certificate of any shape is the peer's to send
        raise Insecure("dane-failed", "the peer's certificate cannot be read", FailureType.OTHER) from None
    for record in security.records:
        # RFC 7672 §3.1.1: DANE-EE stands for the certificate by itself; names and dates in it do not count
        if record.usage == END_ENTITY and matches(record, chain[0], keys[0]):
            return
    anchors = [
        anchor
        for record in security.records
        if record.usage != END_ENTITY
        for anchor in _anchors(record, chain, keys, certificates)
    ]
    if not anchors:
        raise Insecure(
            "dane-failed", "the peer's certificate matches none of the host's TLSA records", FailureType.OTHER
        )
    _check_anchored(certificates, anchors, security.names, now)


def _anchors(
    record: TlsaRecord, chain: Sequence[bytes], keys: Sequence[bytes], certificates: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """What a DANE-TA record stands for: a certificate above the peer's own, or the one in the record (RFC 7672 §3.1.2)."""
    found = [certificates[n] for n, octets in enumerate(chain) if n and matches(record, octets, keys[n])]
    if not found and record.selector == 0 and record.matching == 0:
        try:
            found.append(x509.load_der_x509_certificate(record.data))
        except ValueError:
            pass
    return found


def _check_anchored(
    certificates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], names: Sequence[str], now: datetime
) -> None:
    """Signatures, dates and name of a chain that ends at one of the anchors. Raises Insecure."""
    leaf = certificates[0]
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise Insecure("dane-failed", "the peer's certificate is out of date", FailureType.EXPIRED)
    # RFC 7672 §3.1.2 asks for a path and a name, not for the form that public authorities give their certificates
    lax = verification.ExtensionPolicy.permit_all()
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(list(anchors)))
        .time(now)
        .max_chain_depth(MAX_PATH)
        .extension_policies(
            ca_policy=lax.require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None),
            ee_policy=lax.require_present(x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None),
        )
    )
    reason = "the host has no name"
    for name in names:
        try:
            builder.build_server_verifier(x509.DNSName(name)).verify(leaf, list(certificates[1:]))
        except verification.VerificationError as error:
            reason = str(error).removeprefix("validation failed: ").partition(" (encountered")[0]
        except ValueError:  # a name with an underscore, or whatever else an alias in the DNS may lead to
            reason = f"no subjectAltName can be compared with {name}"
        else:
            return
    mismatch = "subjectAltName" in reason
    raise Insecure(
        "dane-failed",
        f"the peer's certificate is not under the host's DANE trust anchor: {reason}",
        FailureType.HOST if mismatch else FailureType.UNTRUSTED,
    )


# ---- failures --------------------------------------------------------------------------------------------------------

_VERIFY_CODES = {
    **dict.fromkeys((10, 9), FailureType.EXPIRED),
    **dict.fromkeys((62, 63, 64), FailureType.HOST),
    **dict.fromkeys((2, 7, 18, 19, 20, 21, 24, 26, 27), FailureType.UNTRUSTED),
}
"""OpenSSL's X509_V_ERR_…: dates; host name, address; issuer, signature, self-signed, purpose, not trusted."""


def failure_of(error: BaseException) -> FailureType:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, FailureType.OTHER)
    return FailureType.OTHER


def is_passing(error: BaseException) -> bool:
    """A handshake that came to nothing without a word of TLS from the peer: no proof of what it can."""
    ended = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
    return not isinstance(error, ssl.SSLError) or isinstance(error, ended)


def words_of(error: BaseException) -> str:
    """What went wrong in a handshake, in a few words."""
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error) or type(error).__name__
