"""The check of a peer's certificates against TLSA records (RFC 7672 §3), and what a connection must be."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fakes.authority import Authority, tlsa
from mailcore.dns.resolver import TlsaRecord
from mailcore.transport.base import TlsPolicy
from mailcore.transport.tls import Demand, FailureType, Insecure, Kind, Security, check_dane, demand, rule_of

HOST = "mx.example.com"
CA = Authority()
SERVER = CA.server(HOST)
CHAIN = [SERVER.der, CA.der]


def security(*texts: str, names: tuple[str, ...] = (HOST,)) -> Security:
    records = []
    for text in texts:
        usage, selector, matching, data = text.split()
        records.append(TlsaRecord(int(usage), int(selector), int(matching), bytes.fromhex(data)))
    return Security(Kind.DANE, tuple(records), names)


def check(asked: Security, chain: list[bytes]) -> FailureType | None:
    try:
        check_dane(asked, chain, datetime.now(UTC))
    except Insecure as error:
        assert error.rule == "dane-failed"
        return error.failure
    return None


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_a_record_stands_for_a_certificate_by_itself_or_for_what_its_authority_signs(
    selector: int, matching: int
) -> None:
    assert check(security(tlsa(3, SERVER.certificate, selector, matching)), CHAIN) is None
    assert check(security(tlsa(2, CA.certificate, selector, matching)), CHAIN) is None
    other = Authority()
    wrong = (
        tlsa(3, other.server(HOST).certificate, selector, matching),
        tlsa(2, other.certificate, selector, matching),
    )
    for each in wrong:
        assert check(security(each), CHAIN) in (FailureType.OTHER, FailureType.UNTRUSTED)
    assert check(security(*wrong, tlsa(3, SERVER.certificate)), CHAIN) is None, "one that fits is enough"


def test_names_and_dates_count_under_an_anchor_only() -> None:
    """RFC 7672 §3.1.1: DANE-EE takes any name and any date."""
    for server, failure in (
        (CA.server("elsewhere.example"), FailureType.HOST),
        (CA.server(HOST, ended=True), FailureType.EXPIRED),
    ):
        chain = [server.der, CA.der]
        assert check(security(tlsa(3, server.certificate)), chain) is None
        assert check(security(tlsa(2, CA.certificate)), chain) is failure
    wildcard = [CA.server("*.example.com").der, CA.der]
    assert check(security(tlsa(2, CA.certificate)), wildcard) is None
    other_name = security(tlsa(2, CA.certificate), names=("alias.example.net", HOST))
    assert check(other_name, CHAIN) is None, "one of the names is enough"


def test_a_name_that_cannot_be_checked_is_not_the_hosts() -> None:
    """The verifier takes no underscore; another name of the host may do."""
    odd = "mx_1.example.com"
    chain = [CA.server(odd, HOST).der, CA.der]
    assert check(security(tlsa(2, CA.certificate), names=(odd,)), chain) is FailureType.HOST
    assert check(security(tlsa(2, CA.certificate), names=(odd, HOST)), chain) is None
    assert check(security(tlsa(3, CA.server(odd).certificate), names=(odd,)), chain) is FailureType.OTHER


def test_an_anchor_must_have_signed() -> None:
    """A certificate that merely says so by its issuer's name, with the anchor beside it in the chain."""
    impostor = Authority().server(HOST)
    assert check(security(tlsa(2, CA.certificate)), [impostor.der, CA.der]) is FailureType.UNTRUSTED
    # the anchor's digest in the DNS, the anchor itself not shown: nothing to check with
    assert check(security(tlsa(2, CA.certificate)), [SERVER.der]) is FailureType.OTHER
    # the whole anchor in the DNS needs not be shown
    assert check(security(tlsa(2, CA.certificate, 0, 0)), [SERVER.der]) is None


def test_what_a_peer_may_send_instead_of_a_certificate() -> None:
    asked = security(tlsa(3, SERVER.certificate))
    assert check(asked, []) is FailureType.OTHER
    assert check(asked, [b"\x30\x03\x02\x01\x01"]) is FailureType.OTHER
    assert check(asked, [b""]) is FailureType.OTHER


def test_the_stricter_demand_counts() -> None:
    may, required = TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED
    none, dane = Security(), security(tlsa(3, SERVER.certificate))
    closed = Security(Kind.CLOSED, why="x", failure=FailureType.DNSSEC)
    assert demand(none, may) is Demand.MAY
    assert demand(none, required) is Demand.PUBLIC
    assert demand(none, TlsPolicy.NONE) is Demand.NONE
    assert demand(dane, may) is demand(dane, required) is Demand.DANE
    assert demand(Security(Kind.DANE_UNUSABLE), may) is Demand.ENCRYPT
    assert demand(Security(Kind.DANE_UNUSABLE), required) is Demand.PUBLIC
    assert demand(Security(Kind.STS), may) is Demand.PUBLIC
    assert demand(Security(Kind.STS_TESTING), may) is Demand.MAY
    assert demand(Security(Kind.STS_TESTING), required) is Demand.PUBLIC
    assert demand(closed, may) is demand(closed, required) is Demand.CLOSED
    assert demand(closed, TlsPolicy.NOT_REQUIRED) is demand(dane, TlsPolicy.NOT_REQUIRED) is Demand.MAY
    assert demand(dane, TlsPolicy.NOT_REQUIRED, requiretls=True) is Demand.DANE
    assert demand(none, may, requiretls=True) is Demand.PUBLIC
    assert [
        rule_of(each, "tls-failed") for each in (none, dane, closed, Security(Kind.STS), Security(Kind.STS_TESTING))
    ] == [*("tls-failed", "dane-failed", "dane-failed", "mta-sts-failed", "tls-failed")]
