from __future__ import annotations

import ipaddress

import pytest

from mailcore.kit.settings import Base, load

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_ENCRYPTION_KEY", KEY)


def test_groups_and_lists_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_DNS__NAMESERVERS", "127.0.0.1:5353, 9.9.9.9:53")
    monkeypatch.setenv("POSTROOM_NETWORK__ALLOW__WEBHOOKS", '["127.0.0.0/8","::1/128"]')
    monkeypatch.setenv("POSTROOM_QUEUE__LEASE_SECONDS", "3")
    settings = load(Base)
    assert settings.dns.nameservers == ["127.0.0.1:5353", "9.9.9.9:53"]
    assert settings.network.allow.webhooks == [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]
    assert settings.queue.lease_seconds == 3
    assert settings.queue.sweep_seconds == 10, "setting one of a group keeps the others' defaults"


def test_the_file_gives_way_to_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    file = tmp_path / "postroom.yaml"
    file.write_text("queue:\n  lease_seconds: 7\n  sweep_seconds: 3\n")
    monkeypatch.setenv("POSTROOM_CONFIG", str(file))
    monkeypatch.setenv("POSTROOM_QUEUE__LEASE_SECONDS", "5")
    settings = load(Base)
    assert (settings.queue.lease_seconds, settings.queue.sweep_seconds) == (5, 3)


def test_a_wrong_value_ends_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTROOM_QUEUE__LEASE_SECONDS", "soon")
    with pytest.raises(SystemExit, match="POSTROOM_QUEUE__LEASE_SECONDS"):
        load(Base)


def test_without_an_encryption_key_a_service_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTROOM_ENCRYPTION_KEY")
    with pytest.raises(SystemExit, match="POSTROOM_ENCRYPTION_KEY"):
        load(Base)


def test_secrets_do_not_show() -> None:
    assert KEY not in repr(load(Base))
