"""Policy records, of RFC 9989 and of RFC 7489 before it (reliability B9)."""

from __future__ import annotations

import json
import re
from math import prod

import pytest

import suites
from mailcore.mailauth.dmarc.record import Policy, Record, ReportUri, is_record, only, parse


def parsed(text: str) -> Record:
    found = parse(text)
    assert found is not None, text
    return found


@pytest.mark.parametrize(
    "text",
    ["", "v=DMARC2; p=none", "v=dmarc1; p=none", "p=none; v=DMARC1", "v=DMARC1x; p=none", "v=spf1 -all", " ; v=DMARC1"],
)
def test_what_is_no_record(text: str) -> None:
    assert not is_record(text)
    assert parse(text) is None


def test_a_version_alone_asks_for_nothing() -> None:
    for text in ("v=DMARC1", "v=DMARC1;", "v = DMARC1 ; rua=mailto:a@b.example", "v=DMARC1; nothing; =x; pct=x"):
        found = parsed(text)
        assert (found.p, found.sp, found.np, found.pct, found.psd) == (Policy.NONE, None, None, 100, "u"), text


def test_b9_a_broken_policy_counts_as_none_where_somebody_gets_reports() -> None:
    for tag in ("p=all", "p=reject; sp=x", "p=reject; np="):
        assert parse(f"v=DMARC1; {tag}") is None
        assert parse(f"v=DMARC1; {tag}; rua=nonsense") is None
        found = parsed(f"v=DMARC1; {tag}; rua=mailto:r@example.com")
        assert (found.p, found.sp, found.np) == (Policy.NONE, None, None)


def test_tags_are_read_as_they_are_written_in_the_wild() -> None:
    found = parsed("v=DMARC1;P = Reject ;sp=quarantine; p=none; ADKIM=S; aspf=x; t=Y; psd=N; unknown=1")
    assert (found.p, found.sp) == (Policy.REJECT, Policy.QUARANTINE)
    assert (found.strict_dkim, found.strict_spf, found.testing, found.psd) == (True, False, True, "n")


def test_pct_is_of_records_without_t() -> None:
    assert parsed("v=DMARC1; p=reject; pct=25").pct == 25
    for text in ("pct=25; t=n", "pct=-1", "pct=25%", "pct=9999", "pct=\u0665", "pct=101"):
        assert parsed(f"v=DMARC1; p=reject; {text}").pct == 100, text


def test_reports_go_to_uris() -> None:
    found = parsed(
        "v=DMARC1; p=none; rua=mailto:a%2Bb@example.com!10m , https://x.example/in,mailto:,c@d, mailto:e f@g"
    )
    assert found.rua == (ReportUri("mailto:a%2Bb@example.com", 10 << 20), ReportUri("https://x.example/in"))
    assert [each.address for each in found.rua] == ["a+b@example.com", None]
    assert len(parsed("v=DMARC1; rua=" + ",".join(f"mailto:{n}@example.com" for n in range(50))).rua) == 10


def test_several_records_are_none() -> None:
    one, other = "v=DMARC1; p=reject", "v=DMARC1; p=none"
    assert only([one, other]) is None
    assert only(["v=spf1 -all", one]) == parsed(one)
    assert only(["v=spf1 -all"]) is None


# ---- records of others -----------------------------------------------------------------------------------------------


def _field(text: str, name: str) -> str:
    match = re.search(rf"\b{name}: ([A-Za-z:]+)", text)
    assert match is not None, (name, text)
    return match[1].rpartition(":")[2].lower()


def test_b9_records_are_read_as_others_read_them() -> None:
    pairs = json.loads((suites.suite("mail-auth") / "record-vectors.json").read_text())["src/dmarc/parse.rs"]["pairs"]
    assert len(pairs) >= 6
    for pair in pairs:
        found, expected = parsed(pair["input"]), pair["expected_rust"]
        assert found.p == _field(expected, "p")
        # theirs are filled in from the next higher one
        assert (found.sp or found.p) == _field(expected, "sp")
        assert (found.np or found.sp or found.p) == _field(expected, "np")
        assert found.strict_dkim == (_field(expected, "adkim") == "strict")
        assert found.strict_spf == (_field(expected, "aspf") == "strict")
        assert found.testing == (_field(expected, "t") == "true")
        assert found.psd == {"default": "u", "yes": "y", "no": "n"}[_field(expected, "psd")]
        for name, uris in (("rua", found.rua), ("ruf", found.ruf)):
            listed = re.search(rf"\b{name}: vec!\[(.*?)\]", expected)
            assert listed is not None
            theirs = re.findall(r'URI::new\("([^"]+)", ([^)]+)\)', listed[1])
            sizes = [(address, prod(map(int, size.split(" * ")))) for address, size in theirs]
            # an encoded blank in an address is one to us; nobody has such an address
            assert [((each.address or "").replace(" ", ""), each.most) for each in uris] == sizes
