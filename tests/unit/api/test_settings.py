"""What api refuses to start with."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from api.settings import Auth, Http


@pytest.mark.parametrize("proxies", ["*", "proxy.example", "10.0.0.1/8", "127.0.0.1,*", "fe80::1%eth0/64"])
def test_proxies_that_are_not_named_by_address(proxies: str) -> None:
    with pytest.raises(ValidationError, match="neither an address nor a CIDR"):
        Http.model_validate({"trusted_proxies": proxies})


def test_proxies_by_address() -> None:
    named = Http.model_validate({"trusted_proxies": "10.0.0.0/8, 192.0.2.7,2001:db8::/32"}).trusted_proxies
    assert named == ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]


@pytest.mark.parametrize(("given", "means"), [(True, "true"), ("FALSE", "false"), (" auto ", "auto"), ("True", "true")])
def test_registration_as_yaml_and_people_write_it(given: object, means: str) -> None:
    assert Auth.model_validate({"registration_enabled": given}).registration_enabled == means


@pytest.mark.parametrize(
    "wrong",
    [
        {"registration_enabled": "yes"},
        {"attempts": 0},
        {"attempts": 101},
        {"attempts_minutes": 1441},
        {"allowed_networks": "x"},
    ],
)
def test_what_is_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Auth.model_validate(wrong)
