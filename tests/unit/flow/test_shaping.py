"""What is shipped, what an operator lays over it, and what replies make of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from mailcore.flow.shaping import Shape, Shaping, checked_rules, hosts_of, seconds
from mailcore.kit.errors import Invalid, Refused
from mailcore.smtp.reply import Reply

SHIPPED = Shaping.load()


def _shape(key: str, shaping: Shaping = SHIPPED, **own: Any) -> Shape:
    return shaping.shape(key, **{"connections": 20, "mails_per_connection": 100, **own})


@pytest.mark.parametrize(
    ("hosts", "provider"),
    [
        ("gmail-smtp-in.l.google.com,alt1.gmail-smtp-in.l.google.com", "google"),
        ("aspmx.l.google.com,backup.example.net", "google"),
        ("smtp.google.com", "google"),
        ("mta5.am0.yahoodns.net", "yahoo"),
        ("outlook-com.olc.protection.outlook.com", "outlook"),
        ("acme-com.mail.protection.outlook.com", "office365"),
        ("acme-com.a-v1.mx.microsoft", "office365"),
        ("mx01.mail.icloud.com", "apple"),
        ("mx00.gmx.net", "gmx"),
        ("mx00.t-online.de", "t-online"),
        ("notgoogle.com", None),
        ("mx.evil.google.com.example", None),
    ],
)
def test_a_provider_is_known_by_its_hosts(hosts: str, provider: str | None) -> None:
    assert SHIPPED.provider(f"mx:{hosts}") == provider


def test_hosts_of_every_kind_of_site() -> None:
    assert hosts_of("mx:a.test,b.test") == ["a.test", "b.test"]
    assert hosts_of("smarthost:relay.test:587") == ["relay.test"]
    assert hosts_of("mx:a.test,b.test#0123456789abcdef") == ["a.test", "b.test"]
    assert hosts_of("domain:example.com") == []


@pytest.mark.parametrize(
    ("key", "reply", "do"),
    [
        (
            "mx:mx.l.google.com",
            Reply(421, "Our system has detected an unusual rate of unsolicited mail", "4.7.28"),
            "slow",
        ),
        ("mx:mta5.am0.yahoodns.net", Reply(421, "[TSS04] Messages from 192.0.2.1 temporarily deferred", "4.7.0"), None),
        ("mx:mx00.t-online.de", Reply(554, "IP=192.0.2.1 - A problem occurred. (Ask for reset: tobr@rx.t-online.de)"), "suspend"),
        ("mx:any.test", Reply(421, "Too many concurrent SMTP connections from this IP address", "4.7.0"), "slow"),
        ("mx:any.test", Reply(452, "Too many recipients", "4.5.3"), None),
        ("mx:any.test", Reply(451, "Too many messages from 192.0.2.1, slow down", "4.7.1"), "slow"),
        ("mx:any.test", Reply(450, "throttled"), "slow"),
        ("mx:any.test", Reply(452, "You have exceeded the rate for this host"), "slow"),
        # connections follow a 421 by themselves; a mailbox, or a session, with too many messages is not about us
        ("mx:any.test", Reply(421, "Too many messages from 192.0.2.1, slow down", "4.7.0"), None),
        ("mx:any.test", Reply(452, "The recipient has too many messages in the mailbox", "4.2.2"), None),
        ("mx:any.test", Reply(452, "rate limit of this mailbox", "4.2.1"), None),
        ("mx:any.test", Reply(452, "Too many messages in this session", "4.5.3"), None),
        ("mx:any.test", Reply(452, "exceeded storage quota of the recipient"), None),
        ("mx:any.test", Reply(450, "Greylisted, try again in 300 seconds", "4.2.0"), None),
        ("mx:any.test", Reply(550, "No such user here", "5.1.1"), None),
        ("mx:any.test", Reply(250, "too many connections, but never mind"), None),
    ],
)  # fmt: skip
def test_what_a_first_reply_leads_to(key: str, reply: Reply, do: str | None) -> None:
    rule = _shape(key).reaction_to(reply)
    if rule is not None and rule.times > 1:  # once is not enough
        rule = None
    assert (rule.do if rule else None) == do


def test_yahoo_defers_our_address_and_the_site_is_suspended_at_the_second() -> None:
    rule = _shape("mx:mta5.am0.yahoodns.net").reaction_to(
        Reply(421, "[TSS04] Messages from 192.0.2.1 temporarily deferred", "4.7.0")
    )
    assert rule is not None
    assert (rule.do, rule.times, rule.seconds) == ("suspend", 2, 7200)


def test_limits_site_over_own_file_over_shipped_over_settings(tmp_path: Path) -> None:
    file = tmp_path / "shaping.toml"
    file.write_text(
        "[default]\nper_hour = 9000\n"
        "[provider.google]\nconnections = 3\n[[provider.google.rules]]\nmatch='mine'\ndo='suspend'\nfor='1d'\n"
        '[provider.house]\nmx = [".corp.test"]\nper_minute = 6\n'
    )
    shaping = Shaping.load(str(file))
    google = _shape("mx:aspmx.l.google.com", shaping)
    assert (google.connections, google.mails_per_connection) == (3, 50)
    assert google.rates == ((9000, 3600.0),)
    assert google.rules[0].name == "google 1"
    assert google.rules[0].matches("450 mine")
    assert len(google.rules) > len(_shape("mx:x.test", shaping).rules)
    assert _shape("mx:mx.corp.test", shaping).rates == ((6, 60.0), (9000, 3600.0))
    assert _shape("mx:mx.corp.test", shaping).connections == 20
    own = _shape("mx:aspmx.l.google.com", shaping, limits={"connections": 9, "per_second": 2}, rules=[_RULE])
    assert own.connections == 9
    assert own.rates == ((2, 1.0), (9000, 3600.0))
    assert own.rules[0].name == "site 1"


_RULE = {"match": "stop it", "do": "suspend", "for": "15m", "times": 2, "within": "1m"}


def test_a_pattern_made_to_hang_others_takes_linear_time() -> None:
    shape = _shape("mx:x.test", rules=[{"match": "^(([a-z])+.)+[A-Z]([a-z])+$", "do": "slow", "for": "1m"}])
    began = time.process_time()
    assert shape.reaction_to(Reply(450, "a" * 1900)) is None
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default", "is no TOML"),
        ("[default]\nconections = 3", "conections"),
        ("[default]\nconnections = 0", "connections"),
        ("[[default.rules]]\nmatch='('\ndo='slow'\nfor='1m'", "RE2"),
        ("[[default.rules]]\nmatch='(?<=a)b'\ndo='slow'\nfor='1m'", "RE2"),
        ("[[default.rules]]\nmatch='a'\ndo='explode'\nfor='1m'", "do"),
        ("[[default.rules]]\nmatch='a'\ndo='slow'\nfor='soon'", "90s"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        Shaping.load(str(file))
    assert said in refused.value.public
    assert str(file) in refused.value.public


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(Refused, match="cannot be read"):
        Shaping.load("/nowhere/shaping.toml")


def test_rules_of_a_site_are_checked_and_completed() -> None:
    (stored,) = checked_rules([{"match": "x", "do": "suspend-tenant", "for": "2h"}])
    assert stored == {"match": "x", "do": "suspend-tenant", "for": "2h", "times": 1, "within": "1h"}
    for wrong in ({"match": "x"}, {**_RULE, "match": "("}, {**_RULE, "extra": 1}, {**_RULE, "match": "x" * 501}):
        with pytest.raises(Invalid):
            checked_rules([wrong])
    with pytest.raises(Invalid):
        checked_rules([_RULE] * 51)


def test_durations() -> None:
    assert [seconds(text) for text in ("90s", "15m", "2h", "1d")] == [90, 900, 7200, 86400]
    for wrong in ("", "0s", "1w", "1.5h", "-1s", "31d", "1 h"):
        with pytest.raises(ValueError, match="90s, 15m, 2h"):
            seconds(wrong)
