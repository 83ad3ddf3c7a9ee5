from __future__ import annotations

from uuid import uuid4

import pytest

from mailcore.flow.ways import KINDS, NO_ROUTE, Rules, SmartHost, check, parted, rank, secret_names
from mailcore.kit.errors import Invalid
from mailcore.store.ways import Rule, Taken
from mailcore.transport import TlsPolicy

DOMAIN, OTHER, ORG = uuid4(), uuid4(), uuid4()


def rule(
    lane_route: int,
    *,
    own: bool = True,
    org: bool = False,
    domain: bool = False,
    tag: str | None = None,
    value: str | None = None,
) -> Rule:
    return Rule(lane_route, own, ORG if org else None, DOMAIN if domain else None, tag, value)


def rules(*unordered: Rule) -> Rules:
    return Rules(tuple(sorted(unordered, key=rank)))


ALL = rules(
    rule(1, own=False),
    rule(2, own=False, org=True),
    rule(3),
    rule(4, domain=True),
    rule(5, tag="stream"),
    rule(6, tag="stream", value="news"),
    rule(7, tag="stream", value="news", domain=True),
    rule(8, own=False, tag="stream"),
)
NEWS = [{"name": "stream", "value": "news"}]


def test_the_most_particular_route_takes_a_mail() -> None:
    assert ALL.route(DOMAIN, NEWS) == 7
    assert ALL.route(OTHER, NEWS) == 6
    assert ALL.route(OTHER, [{"name": "x", "value": "y"}, {"name": "stream", "value": "alerts"}]) == 5
    assert ALL.route(DOMAIN, None) == 4
    assert ALL.route(OTHER, []) == 3


def test_an_organizations_own_go_before_the_installations() -> None:
    installations = rules(rule(1, own=False), rule(2, own=False, org=True), rule(8, own=False, tag="stream"))
    assert installations.route(DOMAIN, NEWS) == 2, "one that is for this organization goes before one for all"
    assert rules(rule(1, own=False), rule(8, own=False, tag="stream")).route(DOMAIN, NEWS) == 8
    assert rules(rule(1, own=False)).route(DOMAIN, None) == 1
    assert rules(rule(3, tag="stream")).route(DOMAIN, None) == NO_ROUTE
    assert Rules(()).route(DOMAIN, NEWS) == NO_ROUTE


def test_secrets_are_parted_from_what_may_be_shown() -> None:
    shown, secrets = parted(check("smarthost", {"host": "Smtp.Example.com", "username": "u", "password": "p"}))
    assert shown == {"host": "smtp.example.com", "port": 587, "tls": "required", "username": "u"}
    assert secrets == {"password": "p"}
    shown, secrets = parted(check("resend", {"api_key": "re_1"}))
    assert shown == {} and secrets == {"api_key": "re_1"}, "what is not set is neither"
    for kind in KINDS:
        assert secret_names(kind), f"{kind} has nothing secret?"


def test_port_465_is_tls_from_the_first_octet_on() -> None:
    """RFC 8314 §7.3; and elsewhere where it is said."""
    policies = {
        (given.get("tls"), given.get("port")): smart_host.policy
        for given in (
            {},
            {"port": 465},
            {"port": 465, "tls": "none"},
            {"port": 2465, "tls": "implicit"},
            {"port": 2525, "tls": "opportunistic"},
        )
        if isinstance(smart_host := check("smarthost", {"host": "smtp.example.com", **given}), SmartHost)
    }
    assert policies == {
        (None, None): TlsPolicy.REQUIRED,
        (None, 465): TlsPolicy.IMPLICIT,
        ("none", 465): TlsPolicy.NONE,
        ("implicit", 2465): TlsPolicy.IMPLICIT,
        ("opportunistic", 2525): TlsPolicy.OPPORTUNISTIC,
    }
    with pytest.raises(Invalid, match="set `port`, for implicit TLS usually to 465"):
        check("smarthost", {"host": "smtp.example.com", "tls": "implicit"})


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_repeats_what_was_given(kind: str) -> None:
    given = {name: ["very-secret"] for name in KINDS[kind].model_fields}
    with pytest.raises(Invalid) as refused:
        check(kind, given)
    assert "very-secret" not in refused.value.public and refused.value.field


def test_the_words_of_a_choice_are_short() -> None:
    taken = Taken(None, 2, 3, "mx:a", True, [f"resend:{n} ({'x' * 100})" for n in range(9)])
    assert taken.words.startswith("way 2 of 3: mx:a; resting: resend:0") and len(taken.words) <= 480
