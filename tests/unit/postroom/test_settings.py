from pathlib import Path

import pytest

from postroom.console import CannotStart
from postroom.local.defaults import Mode, of_mode
from postroom.local.devfile import keep_settings, settings_of
from postroom.local.folder import Folder, Secrets
from postroom.local.ports import Ports
from postroom.settings import given

SECRETS = Secrets("key", "super", "service", "redis")


def test_what_is_set_wins_over_a_mode(tmp_path: Path) -> None:
    mode = of_mode(Mode.CATCH, Folder(tmp_path), Ports(8080), SECRETS)
    assert mode["POSTROOM_OUTBOUND__ROUTE"] == "catch"
    environment = given({"POSTROOM_OUTBOUND__ROUTE": "mx", "PATH": "/bin"}).over(mode)
    assert environment["POSTROOM_OUTBOUND__ROUTE"] == "mx"
    assert environment["POSTROOM_DNS__NAMESERVERS"] == "127.0.0.1:8087"
    assert environment["PATH"] == "/bin"


def test_what_the_file_sets_is_left_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "postroom.yml"
    file.write_text(
        "outbound:\n  route: smarthost\nnetwork:\n  allow:\n    webhooks: [10.0.0.0/8]\napi:\n  processes: 3\n"
    )
    known = given({"POSTROOM_CONFIG": str(file)})
    environment = known.over(of_mode(Mode.CATCH, Folder(tmp_path), Ports(8080), SECRETS))
    assert "POSTROOM_OUTBOUND__ROUTE" not in environment
    assert "POSTROOM_NETWORK__ALLOW__WEBHOOKS" not in environment
    assert known.values["POSTROOM_OUTBOUND__ROUTE"] == "smarthost"
    assert known.integer("POSTROOM_API__PROCESSES", 1, low=0, high=32) == 3


def test_live_mode_catches_nothing(tmp_path: Path) -> None:
    mode = of_mode(Mode.LIVE, Folder(tmp_path), Ports(8080), SECRETS)
    assert mode["POSTROOM_OUTBOUND__ROUTE"] == "mx"
    assert not [name for name in mode if "CATCH" in name or "ALLOW" in name or "NAMESERVERS" in name]


@pytest.mark.parametrize("value", ["x", "-1", "33", "1.5", ""])
def test_a_wrong_number_is_said(value: str) -> None:
    with pytest.raises(CannotStart, match="POSTROOM_API__PROCESSES"):
        given({"POSTROOM_API__PROCESSES": value}).integer("POSTROOM_API__PROCESSES", 1, low=0, high=32)


@pytest.mark.parametrize("content", ["a: [", "- a\n- b\n"])
def test_a_broken_file_is_one_clear_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "postroom.yml"
    file.write_text(content)
    with pytest.raises(CannotStart) as caught:
        given({"POSTROOM_CONFIG": str(file)})
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="cannot be read"):
        given({"POSTROOM_CONFIG": str(tmp_path / "none.yml")})


def test_what_the_file_sets_to_nothing_is_nothing_for_the_doctor_too(tmp_path: Path) -> None:
    file = tmp_path / "postroom.yml"
    file.write_text("dns:\n  trust_ad: null\n  timeout_seconds: 2\noutbound:\n  route: mx\n")
    known = given({"POSTROOM_CONFIG": str(file)})
    keep_settings(Folder(tmp_path), {**known.over({"POSTROOM_DNS__TRUST_AD": "true"}), **known.values})
    assert settings_of(tmp_path) == {"POSTROOM_DNS__TIMEOUT_SECONDS": "2", "POSTROOM_OUTBOUND__ROUTE": "mx"}
