"""Rates against thresholds, and what bulk senders must have."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailcore.flow.gate import Requirement, requirements
from mailcore.flow.reputation import judge, judge_key
from mailcore.kit.ids import uuid7
from mailcore.kit.settings import Reputation
from mailcore.store.reputation import KeyUse, Open, Rates

LIMITS = Reputation()
ORG, DOMAIN = UUID(int=1), UUID(int=2)
SINCE = datetime(2026, 2, 1, tzinfo=UTC)


def rates(delivered: int, bounced: int = 0, complained: int = 0) -> Rates:
    return Rates(ORG, DOMAIN, "mail.test", SINCE, delivered, bounced, complained)


def judged(found: Rates, *open_: Open, limits: Reputation = LIMITS) -> list[tuple[str, str]]:
    return [(each.kind, each.action) for each in judge(found, limits, open_)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (rates(0), []),
        (rates(10_000, 100, 7), []),
        (rates(10_000, 0, 8), [("complaints", "warned")]),
        (rates(10_000, 0, 24), [("complaints", "warned")]),
        (rates(10_000, 0, 25), [("complaints", "paused")]),
        (rates(2, 1), []),  # one of three
        (rates(0, 19), []),
        (rates(0, 20), [("bounces", "paused")]),
        (rates(975, 25), [("bounces", "warned")]),
        (rates(950, 50), [("bounces", "paused")]),
        (rates(10, 0, 4), []),
        (rates(0, 0, 5), [("complaints", "paused")]),
        (rates(900, 100, 50), [("complaints", "paused"), ("bounces", "paused")]),
    ],
)
def test_what_a_rate_comes_to(found: Rates, expected: list[tuple[str, str]]) -> None:
    assert judged(found) == expected


def test_a_pause_lasts_until_the_rate_is_below_the_warning() -> None:
    paused = Open(uuid7(), ORG, DOMAIN, "bounces", "paused")
    assert judged(rates(960, 40)) == [("bounces", "warned")]
    assert judged(rates(960, 40), paused) == [("bounces", "paused")]
    assert judged(rates(980, 20), paused) == []


def test_with_pauses_off_there_are_warnings_only() -> None:
    assert judged(rates(0, 20), limits=Reputation(pause=False)) == [("bounces", "warned")]


def test_the_text_has_the_numbers_and_what_to_do() -> None:
    (found,) = judge(rates(950, 50), LIMITS)
    for words in ("mail.test", "50 of 1000 mails bounced", "5.00%", "until the rate is below 2.50%", "Clean the list"):
        assert words in found.text


def key(sent: int, busiest: int = 0, sampled: int = 0, bounced: int = 0) -> KeyUse:
    return KeyUse(ORG, DOMAIN, "shop", SINCE, sent, busiest, sampled, bounced)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (key(1_000), []),  # ten times the least that counts as usual
        (key(1_001), ["volume"]),
        (key(10_000, busiest=1_000), []),
        (key(10_001, busiest=1_000), ["volume"]),
        (key(500, sampled=100, bounced=20), []),
        (key(500, sampled=100, bounced=21), ["bounces"]),
        (key(19, sampled=19, bounced=19), []),
        (key(5_000, sampled=100, bounced=90), ["volume", "bounces"]),
    ],
)
def test_a_key_that_does_what_it_never_did(use: KeyUse, expected: list[str]) -> None:
    assert [each.kind for each in judge_key(use, LIMITS)] == expected
    assert {each.action for each in judge_key(use, LIMITS)} <= {"warned"}
    assert {each.action for each in judge_key(use, Reputation(suspend_keys=True))} <= {"suspended"}


# ---- what bulk senders must have -------------------------------------------------------------------------------------


def public_txt(bits: int) -> str:
    der = generate_private_key(65537, bits).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


LONG, SHORT = public_txt(2048), public_txt(1024)


def domain(**changed: Any) -> dict[str, Any]:
    good = {
        "id": DOMAIN,
        "name": "mail.test",
        "custom_return_path": "send",
        "dkim": [{"selector": "s1", "public_txt": LONG}],
        "record_status": {"spf_txt": "verified", "spf_mx": "verified", "dkim:s1": "verified"},
        "seen": {"dmarc": "v=DMARC1; p=none", "dmarc_above": ""},
    }
    return {**good, **changed}


FINE = [
    {"check": "ptr", "status": "ok", "text": "192.0.2.1 is mx.test", "advice": ""},
    {"check": "certificate", "status": "ok", "text": "holds", "advice": ""},
]


def asked(row: dict[str, Any], url: str = "https://mail.test", **more: Any) -> dict[str, Requirement]:
    found = requirements(row, link_url=url, **{"findings": FINE, **more})
    return {each.name: each for each in found}


def test_a_domain_that_has_all_of_it() -> None:
    assert {each.status for each in asked(domain()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("SPF", {"record_status": {"spf_txt": "pending", "spf_mx": "verified", "dkim:s1": "verified"}}),
        ("SPF", {"record_status": {"spf_txt": "verified", "spf_mx": "failed", "dkim:s1": "verified"}}),
        ("DKIM", {"record_status": {"spf_txt": "verified", "spf_mx": "verified", "dkim:s1": "pending"}}),
        ("DKIM", {"dkim": []}),
        ("DMARC", {"seen": {"dmarc": "", "dmarc_above": ""}}),
    ],
)
def test_each_of_it_can_be_missing_and_says_what_to_do(name: str, changed: dict[str, Any]) -> None:
    found = asked(domain(**changed))
    assert [each.name for each in found.values() if each.status == "missing"] == [name]
    assert found[name].advice


def test_a_key_of_too_few_bits_is_none() -> None:
    der = _small_key()
    found = asked(domain(dkim=[{"selector": "s1", "public_txt": f"v=DKIM1; p={der}"}]))
    assert found["DKIM"].status == "missing" and "1024" in found["DKIM"].text
    assert asked(domain(dkim=[{"selector": "s1", "public_txt": SHORT}]))["DKIM"].status == "ok"


def _small_key() -> str:
    """512 bits, which no library makes any more; this one belongs to nobody."""
    key = RSAPublicNumbers(65537, (1 << 511) | 12345678901234567891).public_key()
    return base64.b64encode(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def test_the_policy_of_the_domain_above_is_one() -> None:
    found = asked(domain(seen={"dmarc": "", "dmarc_above": "v=DMARC1; p=reject"}))
    assert found["DMARC"].status == "ok" and "above" in found["DMARC"].text


def test_what_is_not_known_keeps_nobody_from_sending() -> None:
    found = asked(domain(seen={"dmarc": None}), findings=[])
    assert {name for name, each in found.items() if each.status == "unknown"} == {"DMARC", "PTR", "TLS"}
    assert not [each for each in found.values() if each.status == "missing"]


def test_one_click_unsubscribing_needs_https() -> None:
    assert asked(domain(), "http://mail.test")["Unsubscribe"].status == "missing"


def test_what_the_health_checks_found_wrong_counts() -> None:
    wrong = [{"check": "ptr", "status": "wrong", "text": "no name", "advice": "Ask for one."}, FINE[1]]
    found = asked(domain(), findings=wrong)
    assert (found["PTR"].status, found["PTR"].advice) == ("missing", "Ask for one.")


@pytest.mark.parametrize(
    ("name", "check", "subject"),
    [("SPF", "spf", "mail.test 192.0.2.1"), ("DKIM", "dkim", "mail.test"), ("DMARC", "dmarc", "mail.test")],
)
def test_what_they_found_about_the_domain_is_fresher_than_its_row(name: str, check: str, subject: str) -> None:
    wrong = {"check": check, "subject": subject, "status": "wrong", "text": "it is gone", "advice": "Publish it."}
    found = asked(domain(), findings=[*FINE, wrong])
    assert (found[name].status, found[name].text, found[name].advice) == ("missing", "it is gone", "Publish it.")
    assert asked(domain(), findings=[*FINE, {**wrong, "subject": f"other.{subject}"}])[name].status == "ok"
    assert asked(domain(), findings=[*FINE, {**wrong, "status": "unknown"}])[name].status == "ok"


def test_a_policy_that_was_published_since_is_one() -> None:
    there = {"check": "dmarc", "subject": "mail.test", "status": "ok", "text": "mail.test has a policy", "advice": ""}
    none = domain(seen={"dmarc": "", "dmarc_above": ""})
    assert asked(none, findings=[*FINE, there])["DMARC"].status == "ok"
    assert asked(none, findings=[*FINE, {**there, "status": "unknown"}])["DMARC"].status == "missing"


def test_a_paused_domain_sends_no_broadcast() -> None:
    assert asked(domain(), paused="50 of 1000 bounced")["Reputation"].status == "missing"


def test_where_no_mail_leaves_nobody_asks_for_anything_but_a_pause_holds() -> None:
    nothing = domain(dkim=[], record_status={}, seen={})
    assert [each.status for each in asked(nothing, "http://mail.test", catches=True).values()] == ["ok"]
    assert "missing" in [each.status for each in asked(nothing, catches=True, paused="x").values()]
