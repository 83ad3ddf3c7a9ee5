import json
from pathlib import Path
from typing import Any

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dns.lab import MAX_RECORDS, check_records, put_zone, read_zone, zone_file, zone_origin
from mailcore.kit.errors import Invalid

ORIGIN = dns.name.from_text("example.test")


def zone(folder: Path, *records: dict[str, Any]) -> Any:
    put_zone(folder, "example.test", records)
    return read_zone(zone_file(folder, ORIGIN))


def texts(found: Any) -> list[str]:
    return [record.rdata.to_text() for record in found.records]


@pytest.mark.parametrize("name", ["mail", "mail.example.test", "mail.example.test.", "MAIL.Example.Test"])
def test_a_name_may_be_relative_or_in_full(tmp_path: Path, name: str) -> None:
    found = zone(tmp_path, {"name": name, "type": "A", "value": "192.0.2.1"}).find(
        ORIGIN.concatenate(dns.name.empty), "A"
    )
    assert found.exists
    assert not found.records
    found = zone(tmp_path, {"name": name, "type": "a", "value": "192.0.2.1"}).find(
        dns.name.from_text("mail.example.test"), "A"
    )
    assert texts(found) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("kind", "value", "wire"),
    [
        ("MX", "10 mail.other.test", "10 mail.other.test."),
        ("MX", "10 mail", "10 mail.example.test."),
        ("MX", "0 .", "0 ."),  # RFC 7505
        ("CNAME", "other.test.", "other.test."),
        ("SRV", "0 5 993 imap.other.test", "0 5 993 imap.other.test."),
        ("CAA", '0 issue "ca.test"', '0 issue "ca.test"'),
        ("AAAA", "2001:db8::1", "2001:db8::1"),
        ("TLSA", "3 1 1 " + "ab" * 32, "3 1 1 " + "ab" * 32),
        ("TXT", '"v=spf1" " -all"', '"v=spf1" " -all"'),
        ("TXT", "v=DMARC1; p=none", '"v=DMARC1; p=none"'),
    ],
)
def test_values_are_as_in_a_zone_file(tmp_path: Path, kind: str, value: str, wire: str) -> None:
    found = zone(tmp_path, {"name": "x", "type": kind, "value": value}).find(dns.name.from_text("x.example.test"), kind)
    assert texts(found) == [wire]


def test_a_long_txt_is_split_and_reads_the_same(tmp_path: Path) -> None:
    value = "v=DKIM1; p=" + "A" * 700
    found = zone(tmp_path, {"name": "s._domainkey", "type": "TXT", "value": value}).find(
        dns.name.from_text("s._domainkey.example.test"), "TXT"
    )
    strings = found.records[0].rdata.strings  # type: ignore[union-attr]
    assert [len(part) for part in strings] == [255, 255, 201]
    assert b"".join(strings).decode() == value


def test_priority_may_stand_by_itself(tmp_path: Path) -> None:
    found = zone(tmp_path, {"name": "@", "type": "MX", "value": "mail.example.test", "priority": 5}).find(ORIGIN, "MX")
    assert texts(found) == ["5 mail.example.test."]


def test_names_between_exist_and_others_do_not(tmp_path: Path) -> None:
    made = zone(tmp_path, {"name": "a.b", "type": "A", "value": "192.0.2.1"})
    assert made.find(dns.name.from_text("b.example.test"), "A").exists
    assert not made.find(dns.name.from_text("c.example.test"), "A").exists
    assert made.soa.rdata is not None


def test_an_alias_answers_for_every_type(tmp_path: Path) -> None:
    found = zone(tmp_path, {"name": "w", "type": "CNAME", "value": "mail"}).find(
        dns.name.from_text("w.example.test"), "MX"
    )
    assert texts(found) == ["mail.example.test."]


def test_a_zone_is_replaced_as_a_whole(tmp_path: Path) -> None:
    zone(tmp_path, {"name": "old", "type": "A", "value": "192.0.2.1"})
    made = zone(tmp_path, {"name": "new", "type": "A", "value": "192.0.2.1", "ttl": 0})
    assert not made.find(dns.name.from_text("old.example.test"), "A").exists
    assert [path.name for path in tmp_path.iterdir()] == ["example.test.json"]


A = {"name": "a", "type": "A", "value": "192.0.2.1"}


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([{"name": "a", "type": "A", "value": "192.0.2.256"}], "not a A"),
        ([{"name": "a", "type": "HINFO", "value": "x"}], "`type` must be one of"),
        ([{"name": "a", "type": "A"}], "`value` must be"),
        ([{"name": "a", "type": "A", "value": ""}], "`value` must be"),
        ([{"name": "a", "type": "TXT", "value": "x" * 20_000}], "`value` must be"),
        ([{"name": "a", "type": "TXT", "value": '"' + "x" * 300 + '"'}], "string too long"),
        ([{"name": "a", "type": "MX", "value": "10 a\nb"}], "one line"),
        ([{"name": "../a", "type": "A", "value": "192.0.2.1"}], "not a name"),
        ([{"name": "a\x00", "type": "A", "value": "192.0.2.1"}], "not a name"),
        ([{"name": "a" * 64, "type": "A", "value": "192.0.2.1"}], "not a name"),
        ([{"name": ".".join(["a" * 60] * 4), "type": "A", "value": "192.0.2.1"}], "too long"),
        ([{"name": "a.other.test.", "type": "A", "value": "192.0.2.1"}], "outside example.test"),
        ([{**A, "ttl": -1}], "`ttl`"),
        ([{**A, "ttl": True}], "`ttl`"),
        ([{**A, "ttl": 2**31}], "`ttl`"),
        ([{**A, "priority": 1}], "`priority`"),
        ([{**A, "colour": 1}], "`colour` is unknown"),
        (["a"], "A record is an object"),
        ([A, {"name": "a", "type": "CNAME", "value": "b"}], "has a CNAME"),
        ([{"name": "a", "type": "SOA", "value": "ns post 1 2 3 4 5"}], "only at the zone itself"),
        ([A] * (MAX_RECORDS + 1), "at most"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_place(tmp_path: Path, records: list[Any], says: str) -> None:
    with pytest.raises(Invalid) as caught:
        put_zone(tmp_path, "example.test", records)
    assert says in caught.value.public
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", "../x", "a/b", "-a.test", "a" * 64, "a b", "x\x00"])
def test_what_is_no_zone_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="is not a zone name"):
        put_zone(tmp_path, name, [])
    assert not list(tmp_path.iterdir())


@given(st.text(max_size=40), st.dictionaries(st.sampled_from(["name", "type", "value", "ttl"]), st.text(max_size=20)))
def test_any_input_is_taken_or_refused(zone_name: str, record: dict[str, str]) -> None:
    try:
        check_records(zone_name, [record])
        zone_origin(zone_name)
    except Invalid:
        pass


@pytest.mark.parametrize("content", ["{", "[]", "{}", json.dumps({"records": [{"name": "a"}]})])
def test_a_broken_file_is_refused(tmp_path: Path, content: str) -> None:
    path = zone_file(tmp_path, ORIGIN)
    path.write_text(content)
    with pytest.raises(Invalid):
        read_zone(path)
