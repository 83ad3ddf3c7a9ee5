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
        ("mx:mx00.t-online.de", Reply(554, "IP=192.0.2.1 - A problem occurred. (Ask for reset: tobr@x.example)"), "suspend-source"),
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


_IP, _DOMAIN = "suspend-source", "suspend-tenant"


@pytest.mark.parametrize(
    ("reply", "do"),
    [
        # our address, by list and by name
        (Reply(554, "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; see the list", "5.7.1"), _IP),
        (Reply(550, "192.0.2.1 is listed at sbl.spamhaus.org (SBL7)", "5.7.1"), _IP),
        (Reply(554, "Client host [192.0.2.1] blocked using xbl.spamhaus.org", "5.7.1"), _IP),
        (Reply(550, "Your address is listed in the Spamhaus PBL"), _IP),
        (Reply(554, "Your host 192.0.2.1 is on the Spamhaus CSS list"), _IP),
        (Reply(554, "Client host blocked using b.barracudacentral.org; 192.0.2.1 has a poor reputation", "5.7.1"), _IP),
        (Reply(554, "Blocked - see https://www.spamcop.net/bl.shtml?192.0.2.1", "5.7.1"), _IP),
        (Reply(550, "Service unavailable; client [192.0.2.1] blocked using bl.spamcop.net", "5.7.1"), _IP),
        (Reply(554, "Blocked - see https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.1", "5.7.0"), _IP),
        (Reply(554, "Rejected, 192.0.2.1 has poor reputation, see https://csi.cloudmark.com/en/reset", "5.7.1"), _IP),
        (Reply(550, "Connection refused: your IP is in our local blacklist"), _IP),
        (Reply(550, "Helo command rejected: mail.us.example blocked using zen.spamhaus.org", "5.7.1"), _IP),
        (Reply(550, "HELO name mail.us.example listed, go away", "5.7.1"), _IP),
        (Reply(554, "Service unavailable; Client host [mail.us.example] blocked using dbl.spamhaus.org", "5.7.1"), _IP),
        (Reply(554, "Service unavailable; Helo command [mail.us.example] blocked using dbl.spamhaus.org", "5.7.1"), _IP),
        # the sender's domain
        (Reply(554, "Service unavailable; Sender address [x@tenant-a.example] blocked using dbl.spamhaus.org", "5.7.1"), _DOMAIN),
        (Reply(550, "Sender address <x@a.example> rejected: a.example is listed by rhsbl.lists.example", "5.7.1"), _DOMAIN),
        (Reply(554, "tenant-a.example: listed, https://check.spamhaus.org/query/domain/tenant-a.example", "5.7.1"), _DOMAIN),
        (Reply(554, "Domain found in the Spamhaus DBL"), _DOMAIN),
        (Reply(554, "Sender domain tenant-a.example is listed in our blocklist", "5.7.1"), _DOMAIN),
        (Reply(550, "likely suspicious due to the very low reputation of the sending domain", "5.7.1"), _DOMAIN),
        # the content
        (Reply(550, "Message contains a URL listed by multi.surbl.org", "5.7.1"), None),
        (Reply(554, "Message rejected: http://tenant-a.example listed in black.uribl.com", "5.7.1"), None),
        (Reply(550, "A link in this message is blacklisted by URIBL, see https://lookup.uribl.com", "5.7.1"), None),
        (Reply(554, "Message rejected as spam by Cloudmark content filter", "5.7.1"), None),
        (Reply(552, "Virus found in your message", "5.7.1"), None),
        # the recipient
        (Reply(550, "user not listed in directory", "5.1.1"), None),
        (Reply(550, "bob is not listed in Domino Directory"), None),
        (Reply(550, "The recipient is listed as inactive", "5.2.1"), None),
        (Reply(554, "Service unavailable; Recipient address [you@b.example] blocked using rhsbl.lists.example", "5.7.1"), None),
        (Reply(550, "<spamhaus@blacklist.example>: user unknown", "5.1.1"), None),
        # and what is put off counts nothing: the rule is of refusals
        (Reply(450, "Client host [192.0.2.1] blocked using zen.spamhaus.org", "4.7.1"), None),
    ],
    ids=str,
)  # fmt: skip
def test_a_list_is_about_our_address_a_senders_domain_or_neither(reply: Reply, do: str | None) -> None:
    rule = _shape("mx:any.test").reaction_to(reply)
    assert (rule.do if rule else None) == do
    assert rule is None or rule.times > 1, "once is not enough"


@pytest.mark.parametrize(
    ("host", "reply", "do"),
    [
        ("mta5.am0.yahoodns.net", Reply(421, "[TSS04] Messages from 192.0.2.1 temporarily deferred", "4.7.0"), _IP),
        ("mta5.am0.yahoodns.net", Reply(553, "[BL21] Connections will not be accepted from 192.0.2.1", "5.7.1"), _IP),
        ("mta5.am0.yahoodns.net", Reply(554, "[PH01] Email not accepted for policy reasons", "5.7.9"), _DOMAIN),
        ("a.olc.protection.outlook.com", Reply(550, "Your IP is blocked (OU-002). Error: 5.7.1", "5.7.1"), _IP),
        ("a.olc.protection.outlook.com", Reply(421, "RP-001 The mail server has exceeded the rate limit"), "slow"),
        (
            "a.olc.protection.outlook.com",
            Reply(550, "Access denied, sending domain not authenticated", "5.7.515"),
            _DOMAIN,
        ),
        ("a.mail.protection.outlook.com", Reply(550, "Access denied, banned sending IP [192.0.2.1]", "5.7.606"), _IP),
        ("a.mail.protection.outlook.com", Reply(550, "Client host [192.0.2.1] blocked using Spamhaus", "5.7.1"), _IP),
        ("a.mail.protection.outlook.com", Reply(550, "Recipient not found", "5.1.10"), None),
        ("mx0a-1.pphosted.com", Reply(554, "Blocked - see https://ipcheck.proofpoint.com/?ip=192.0.2.1", "5.7.0"), _IP),
        ("smtp-in.orange.fr", Reply(550, "mwinf service refused OFR_506"), _IP),
        ("mx1.comcast.net", Reply(554, "192.0.2.1 Comcast block for spam BL000001"), _IP),
        ("mx00.gmx.net", Reply(554, "gmx.net Nemesis ESMTP Service not available\nNo SMTP service\nBad DNS PTR"), _IP),
        ("mx00.gmx.net", Reply(554, "Transaction failed\nReject due to policy restrictions"), "slow"),
        ("aspmx.l.google.com", Reply(421, "unusual rate of unsolicited mail from your IP address", "4.7.28"), "slow"),
        ("aspmx.l.google.com", Reply(421, "unusual rate of unsolicited mail from your DKIM domain", "4.7.28"), _DOMAIN),
    ],
    ids=str,
)
def test_the_shipped_rules_of_providers_know_whom_a_reply_is_about(host: str, reply: Reply, do: str | None) -> None:
    shape = _shape(f"mx:{host}")
    rule = shape.reaction_to(reply)
    assert (rule.do if rule else None) == do
    if rule is not None and rule.do == _IP:
        assert shape.speaks_for(rule, host) == shape.provider, "all of his sites"
        assert shape.speaks_for(rule, "mx.evil.test") is None, "a host beside his"


def test_a_rule_of_everybodys_holds_for_the_site_that_said_it() -> None:
    shape = _shape("mx:mx0a-1.pphosted.com")
    rule = shape.reaction_to(Reply(554, "192.0.2.1 listed by dnsbl.customer.example", "5.7.1"))
    assert rule is not None and rule.do == _IP
    assert shape.speaks_for(rule, "mx0a-1.pphosted.com") is None, "a customer may ask lists of his own"


def test_a_rule_may_ask_for_the_class_of_a_reply() -> None:
    shape = _shape("mx:x.test", rules=[{"match": "^5", "class": "content", "do": "slow", "for": "1m"}])
    found = shape.reaction_to(Reply(554, "Virus found in your message", "5.7.1"))
    assert found is not None and found.name == "site 1"
    assert shape.reaction_to(Reply(550, "No such user here", "5.1.1")) is None
    with pytest.raises(Invalid):
        checked_rules([{"match": "^5", "class": "bounce", "do": "slow", "for": "1m"}])


def test_yahoo_defers_our_address_and_that_is_suspended_at_the_second() -> None:
    rule = _shape("mx:mta5.am0.yahoodns.net").reaction_to(
        Reply(421, "[TSS04] Messages from 192.0.2.1 temporarily deferred", "4.7.0")
    )
    assert rule is not None
    assert (rule.do, rule.times, rule.seconds) == ("suspend-source", 2, 7200)


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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"match": "("}, "Invalid rule 2, `match`: Not a regular expression of RE2: missing ): (."),
        ({"for": "soon"}, "Invalid rule 2, `for`: Write a duration as 90s, 15m, 2h or 1d; 30d at most."),
        ({"times": 0}, "Invalid rule 2, `times`: Input should be greater than or equal to 1."),
        ({"until": "1h"}, "Invalid rule 2, `until`: Extra inputs are not permitted."),
    ],
)
def test_a_wrong_rule_is_told_by_its_place_and_its_key(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as raised:
        checked_rules([_RULE, {**_RULE, **wrong}])
    assert raised.value.public == words
