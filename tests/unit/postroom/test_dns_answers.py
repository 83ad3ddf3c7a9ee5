"""The lab's DNS without sockets: wire bytes in, wire bytes out."""

import os
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dns.lab import put_zone
from postroom.local.dns import Zones, answer


@pytest.fixture
def zones(tmp_path: Path) -> Zones:
    put_zone(
        tmp_path,
        "example.test",
        [
            {"name": "@", "type": "MX", "value": "10 mail"},
            {"name": "mail", "type": "A", "value": "192.0.2.1", "ttl": 7},
            {"name": "www", "type": "CNAME", "value": "mail"},
            {"name": "away", "type": "CNAME", "value": "host.elsewhere.invalid"},
            {"name": "lost", "type": "CNAME", "value": "nowhere.example.test"},
            {"name": "round", "type": "CNAME", "value": "round2"},
            {"name": "round2", "type": "CNAME", "value": "round"},
            {"name": "ill", "type": "A", "value": "SERVFAIL"},
            {"name": "mute", "type": "TXT", "value": "TIMEOUT"},
            {"name": "big", "type": "TXT", "value": "x" * 3000},
            {"name": "middle", "type": "TXT", "value": "x" * 800},
        ],
    )
    put_zone(tmp_path, "sub.example.test", [{"name": "@", "type": "A", "value": "192.0.2.9"}])
    return Zones(tmp_path)


def ask(zones: Zones, name: str, kind: str, *, tcp: bool = False, **more: Any) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **more)
    wire = answer(zones, query.to_wire(), tcp=tcp)
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    return response


def test_an_answer_is_authoritative_and_keeps_the_letter_case_of_the_question(zones: Zones) -> None:
    response = ask(zones, "MAIL.example.Test", "A")
    assert response.flags & dns.flags.AA
    assert response.answer[0].to_text() == "MAIL.example.Test. 7 IN A 192.0.2.1"


def test_no_such_name_and_no_such_type_differ(zones: Zones) -> None:
    missing, empty = ask(zones, "none.example.test", "A"), ask(zones, "mail.example.test", "AAAA")
    assert (missing.rcode(), empty.rcode()) == (dns.rcode.NXDOMAIN, dns.rcode.NOERROR)
    for response in (missing, empty):
        assert not response.answer
        assert [rrset.rdtype for rrset in response.authority] == [dns.rdatatype.SOA]


def test_the_closest_zone_answers(zones: Zones) -> None:
    assert ask(zones, "sub.example.test", "A").answer[0][0].to_text() == "192.0.2.9"
    assert ask(zones, "x.sub.example.test", "A").authority[0].name.to_text() == "sub.example.test."


@pytest.mark.parametrize("name", ["other.test", ".", "test", "xexample.test", "a/b.invalid"])
def test_what_is_not_ours_is_refused(zones: Zones, name: str) -> None:
    assert ask(zones, name, "A").rcode() == dns.rcode.REFUSED


def test_an_alias_is_followed_as_far_as_our_zones_go(zones: Zones) -> None:
    assert [rrset.rdtype for rrset in ask(zones, "www.example.test", "A").answer] == [
        dns.rdatatype.CNAME,
        dns.rdatatype.A,
    ]
    away = ask(zones, "away.example.test", "A")
    assert (away.rcode(), len(away.answer)) == (dns.rcode.NOERROR, 1)
    assert ask(zones, "lost.example.test", "A").rcode() == dns.rcode.NXDOMAIN
    assert len(ask(zones, "round.example.test", "A").answer) <= 8


def test_a_name_can_be_made_to_misbehave(zones: Zones) -> None:
    assert ask(zones, "ill.example.test", "MX").rcode() == dns.rcode.SERVFAIL
    query = dns.message.make_query("mute.example.test", "A")
    assert answer(zones, query.to_wire(), tcp=False) is None


def test_what_does_not_fit_is_truncated_and_whole_over_tcp(zones: Zones) -> None:
    plain = ask(zones, "middle.example.test", "TXT")
    assert plain.flags & dns.flags.TC
    assert not plain.answer
    assert ask(zones, "middle.example.test", "TXT", use_edns=0, payload=1232).answer
    assert ask(zones, "big.example.test", "TXT", use_edns=0, payload=4096).flags & dns.flags.TC
    whole = ask(zones, "big.example.test", "TXT", tcp=True)
    assert b"".join(whole.answer[0][0].strings) == b"x" * 3000


def test_edns_is_answered_with_edns(zones: Zones) -> None:
    assert ask(zones, "mail.example.test", "A", use_edns=0).edns == 0
    assert ask(zones, "mail.example.test", "A").edns == -1
    assert ask(zones, "mail.example.test", "A", use_edns=1).rcode() == dns.rcode.BADVERS


def test_other_operations_and_classes_are_not_served(zones: Zones) -> None:
    query = dns.message.make_query("example.test", "SOA")
    query.set_opcode(dns.opcode.NOTIFY)
    wire = answer(zones, query.to_wire(), tcp=False)
    assert wire is not None
    assert dns.message.from_wire(wire).rcode() == dns.rcode.NOTIMP
    assert ask(zones, "example.test", "TXT", rdclass="CH").rcode() == dns.rcode.REFUSED
    assert ask(zones, "example.test", "AXFR", tcp=True).rcode() == dns.rcode.REFUSED


def test_an_answer_is_never_answered(zones: Zones) -> None:
    response = dns.message.make_response(dns.message.make_query("example.test", "A"))
    assert answer(zones, response.to_wire(), tcp=False) is None


@given(st.binary(max_size=80))
def test_garbage_is_survived(wire: bytes) -> None:
    reply = answer(Zones(Path("/nonexistent")), wire, tcp=False)
    assert reply is None or reply[:2] == wire[:2]


def test_a_change_counts_at_once_and_a_broken_file_is_a_server_failure(zones: Zones, tmp_path: Path) -> None:
    for number in range(20):
        put_zone(tmp_path, "example.test", [{"name": "n", "type": "TXT", "value": f"{number}"}])
        assert ask(zones, "n.example.test", "TXT").answer[0][0].strings == (str(number).encode(),)
    (tmp_path / "example.test.json").write_text("{")
    assert ask(zones, "n.example.test", "TXT").rcode() == dns.rcode.SERVFAIL
    os.unlink(tmp_path / "example.test.json")
    assert ask(zones, "n.example.test", "TXT").rcode() == dns.rcode.REFUSED
