"""DMARC aggregate reports as receivers really write them, and as somebody writes them who means harm (reliability C5)."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dsn.dmarc_report import (
    MAX_PACKED,
    MAX_ROWS,
    MAX_XML,
    BrokenReport,
    Report,
    in_mail,
    may_hold,
    read,
    unpack,
)
from mailcore.mime.parse import Message

ABOUT = (
    "<report_metadata><org_name>Big Mail</org_name><email>dmarc@big.example</email><report_id>42</report_id>"
    "<date_range><begin>1790000000</begin><end>1790086399</end></date_range></report_metadata>"
)
POLICY = "<policy_published><domain>Ours.example</domain><adkim>r</adkim><p>none</p><pct>100</pct></policy_published>"


def record(ip: str = "192.0.2.1", count: str = "3", dkim: str = "pass", spf: str = "fail", more: str = "") -> str:
    return (
        f"<record><row><source_ip>{ip}</source_ip><count>{count}</count><policy_evaluated><disposition>none</disposition>"
        f"<dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated></row><identifiers><header_from>ours.example</header_from>"
        "</identifiers><auth_results><dkim><domain>ours.example</domain><selector>s</selector><result>pass</result></dkim>"
        f"<spf><domain>bounce.ours.example</domain><result>hardfail</result></spf></auth_results>{more}</record>"
    )


def xml(*records: str, about: str = ABOUT, policy: str = POLICY) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><feedback>{about}{policy}{"".join(records)}</feedback>'.encode()


def broken(octets: bytes) -> str:
    with pytest.raises(BrokenReport) as caught:
        read(unpack(octets))
    return str(caught.value)


def test_what_a_report_says() -> None:
    found = read(xml(record(), record("2001:db8::1", "10", "fail", "fail")))
    assert (found.organization, found.contact, found.report_id) == ("Big Mail", "dmarc@big.example", "42")
    assert (found.domain, found.policy) == ("ours.example", {"p": "none", "adkim": "r", "pct": "100"})
    assert (found.begins_at.isoformat(), found.ends_at.isoformat()) == (
        "2026-09-21T14:13:20+00:00",
        "2026-09-22T14:13:19+00:00",
    )
    assert (found.messages, found.passed, found.defects) == (13, 3, [])
    assert [(row.source_ip, row.messages, row.dkim, row.spf) for row in found.rows] == [
        ("2001:db8::1", 10, False, False),
        ("192.0.2.1", 3, True, False),
    ]
    assert found.rows[0].results == {
        "dkim": [{"domain": "ours.example", "selector": "s", "result": "pass"}],
        "spf": [{"domain": "bounce.ours.example", "result": "fail"}],
    }


DIALECTS: dict[str, bytes] = {
    "namespace of RFC 9990": xml(record()).replace(
        b"<feedback>", b'<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">'
    ),
    "a prefix": xml(record())
    .replace(b"<", b"<d:")
    .replace(b"<d:/", b"</d:")
    .replace(b"<d:?", b"<?")
    .replace(b"<d:feedback>", b'<d:feedback xmlns:d="http://dmarc.org/dmarc-xml/0.1">'),
    "no declaration": xml(record()).partition(b"?>")[2],
    "blanks before it": b"\r\n  " + xml(record()),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + xml(record()),
    "UTF-16": xml(record()).decode().replace("UTF-8", "UTF-16").encode("utf-16"),
    **{
        f"encoded as {name}": xml(record()).replace(b"UTF-8", name.encode())
        for name in ("U-TF-8", "Shift_JIS", "rot13", "undefined", "idna", "base64")
    },
    "octets that are no UTF-8": xml(record(), about=ABOUT.replace("Big Mail", "Big Mail")).replace(
        b"Big Mail", b"Big Mail\x91"
    ),
    "a bare ampersand": xml(
        record(), about=ABOUT.replace("</email>", "</email><extra_contact_info>http://x/?a=1&b=2</extra_contact_info>")
    ),
    "a schema tag without its end": xml(record()).replace(
        b"<feedback>", b'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="x"><feedback>'
    ),
    "capital letters": xml(record()).replace(b"<record>", b"<Record>").replace(b"</record>", b"</Record>"),
    "blanks in values": xml(record("\n 192.0.2.1\n", " 3 ", " pass ", " fail ")),
    "identities": xml(record()).replace(b"identifiers", b"identities"),
    "a version, unknown elements": xml(record(more="<extensions><x:y xmlns:x='u'><z/></x:y></extensions>")).replace(
        b"<feedback>", b"<feedback><version>1.0</version><odd><record2/></odd>"
    ),
    "times with a fraction": xml(record(), about=ABOUT.replace("1790000000", "1790000000.0")),
    "times in milliseconds": xml(
        record(), about=ABOUT.replace("1790000000", "1790000000000").replace("1790086399", "1790086399000")
    ),
    "times as text": xml(
        record(),
        about=ABOUT.replace("1790000000", "2026-09-21T14:13:20").replace("1790086399", "2026-09-22T16:13:19+02:00"),
    ),
    "times the wrong way round": xml(
        record(), about=ABOUT.replace("1790000000", "x").replace("1790086399", "1790000000").replace("x", "1790086399")
    ),
    "a count with a fraction": xml(record(count="3.0")),
    "a mapped address": xml(record("::ffff:192.0.2.1")),
    "verdicts left out": xml(record().replace("<dkim>pass</dkim><spf>fail</spf>", "")),
    "comments, CDATA": xml(record()).replace(b"Big Mail", b"<!-- x --><![CDATA[Big Mail]]>"),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(name: str) -> None:
    found = read(DIALECTS[name])
    assert (found.organization.rstrip("\ufffd"), found.domain, found.messages, found.passed) == (
        "Big Mail",
        "ours.example",
        3,
        3,
    )
    assert (found.rows[0].source_ip, found.rows[0].dkim, found.rows[0].spf) == ("192.0.2.1", True, False)
    assert found.begins_at.timestamp() == 1_790_000_000
    assert found.ends_at.timestamp() == 1_790_086_399
    assert found.defects == []


def test_what_is_left_out_is_made_up_for_or_told() -> None:
    found = read(
        xml(record("unknown"), record(count="many"), record(), about=ABOUT.replace("<org_name>Big Mail</org_name>", ""))
    )
    assert (found.organization, found.messages) == ("big.example", 3)
    assert found.defects == ["a record without an address or a number of messages was passed over"]
    found = read(
        xml(about=ABOUT.replace("</report_metadata>", "<error>half a day is missing</error></report_metadata>"))
    )
    assert (found.messages, found.rows, found.defects) == (0, [], ["its sender says: half a day is missing"])


def test_an_xml_that_ends_early_is_read_as_far_as_it_goes() -> None:
    found = read(xml(record(), record())[:-200])
    assert (found.messages, len(found.defects)) == (3, 1)
    assert "broken" in found.defects[0]


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "no element found"),
        (b"unused", "broken in line 1"),
        (b"<html><body>Not here</body></html>", "no DMARC report"),
        (xml(record(), about=""), "no DMARC report"),
        (xml(record(), policy=""), "no DMARC report"),
        (xml(about=ABOUT.replace("42", "")), "report_id"),
        (xml(about=ABOUT.replace("1790000000", "yesterday")), "times"),
        (xml(about=ABOUT.replace("1790000000", "0")), "longer than a month"),
        (xml(policy=POLICY.replace("Ours.example", "a b")), "no domain"),
        (b"\x1f\x8b" + b"x" * 50, "no gzip"),
        (gzip.compress(xml(record()))[:-20], "ends early"),
        (b"PK\x03\x04" + b"x" * 50, "no directory"),
        (b"x" * (MAX_PACKED + 1), "at most"),
    ],
)
def test_what_is_no_report(octets: bytes, why: str) -> None:
    assert why in broken(octets)


# ---- packing ---------------------------------------------------------------------------------------------------------


def zipped(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


def test_packed_in_whatever_way() -> None:
    plain = xml(record())
    for packed in (
        plain,
        gzip.compress(plain),
        gzip.compress(plain[:100]) + gzip.compress(plain[100:]) + b"\0\0",
        zipped(("a!b!1!2.xml", plain)),
        zipped(("readme.txt", b"hi"), ("__MACOSX/a.xml", b"x"), ("sub/r.XML", plain)),
        zipped(("noname", plain), compression=zipfile.ZIP_STORED),
    ):
        assert unpack(packed) == plain


def _blanks(megabytes: int) -> bytes:
    """A gzip of so many, made quickly: each block repeats the one before."""
    pack, million = zlib.compressobj(9, wbits=31), b" " * 1_000_000
    first, block = (pack.compress(million) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + block * (megabytes - 1)


def test_c5_a_bomb_does_not_go_off() -> None:
    bomb = _blanks(1_000)
    assert len(bomb) < MAX_PACKED
    assert "far too large" in broken(bomb)
    assert "far too large" in broken(zipped(("r.xml", b" " * (MAX_XML * 4))))
    # many times what it is packed, though not large
    assert "far too large" in broken(gzip.compress(b" " * 3_000_000))
    assert "very long one" in broken(zipped(*((f"{n}.xml", b"") for n in range(100))))


def test_c5_no_entities_and_no_document_type() -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bombs = (
        f'<!DOCTYPE f [<!ENTITY l0 "lol">{lol}]>',
        '<!DOCTYPE f [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE f SYSTEM "http://127.0.0.1:9/x.dtd">',
        "<!DOCTYPE f>",
    )
    for bomb in bombs:
        octets = xml(record(), about=ABOUT.replace("Big Mail", "&l11;")).replace(
            b"<feedback>", bomb.encode() + b"<feedback>"
        )
        assert "document type" in broken(octets), bomb


def test_c5_depth_breadth_and_length_are_bounded() -> None:
    deep = xml(record(more="<a>" * 5_000 + "</a>" * 5_000))
    assert "deeper" in read(deep).defects[0]
    assert "more than" in read(xml(record(), record(more="<a/>" * 5_000))).defects[0]
    assert len(read(xml(about=ABOUT.replace("Big Mail", "B" * 100_000))).organization) == 300
    assert "octets" in broken(xml() + b" " * MAX_XML)


def test_of_very_many_records_the_largest_are_kept() -> None:
    found = read(xml(*(record(count=str(n)) for n in range(1, MAX_ROWS * 2 + 2))))
    assert len(found.rows) == MAX_ROWS
    assert found.rows[0].messages == MAX_ROWS * 2 + 1
    assert found.messages == sum(range(1, MAX_ROWS * 2 + 2))
    assert found.defects == [f"of {MAX_ROWS * 2 + 1} records the {MAX_ROWS} with the most messages are kept"]


@given(st.binary(max_size=300), st.integers(0, 900))
def test_any_octets(octets: bytes, at: int) -> None:
    plain = xml(record())
    for tried in (
        octets,
        plain[:at] + octets + plain[at:],
        gzip.compress(octets),
        b"PK\x03\x04" + octets + b"PK\x05\x06" + octets,
    ):
        try:
            found = read(unpack(tried))
        except BrokenReport:
            continue
        assert isinstance(found, Report)


# ---- in a mail -------------------------------------------------------------------------------------------------------


def letter(subject: str = "Report Domain: ours.example Submitter: big.example Report-ID: 42") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "dmarc@big.example", "dmarc@ours.example", subject
    mail.set_content("See the attachment.")
    return mail


@pytest.mark.parametrize(
    ("maintype", "subtype", "name"),
    [
        ("application", "gzip", "big.example!ours.example!1790000000!1790086399.xml.gz"),
        ("application", "octet-stream", "big.example!ours.example!1790000000!1790086399!7.xml.gz"),
        ("application", "zip", "big.example!ours.example!1790000000!1790086399.zip"),
        ("text", "xml", "big.example!ours.example!1790000000!1790086399.xml"),
    ],
)
def test_it_is_found_by_its_name(maintype: str, subtype: str, name: str) -> None:
    mail = letter("no subject of a report")
    mail.add_attachment(gzip.compress(xml(record())), maintype, subtype, filename=name)
    message = Message(mail.as_bytes())
    assert may_hold(message.summary())
    (found,) = in_mail(message)
    assert isinstance(found, Report)


def test_mail_that_holds_none() -> None:
    mail = letter("holiday")
    mail.add_attachment(zipped(("a.xml", b"<x/>")), "application", "zip", filename="photos.zip")
    assert not may_hold(Message(mail.as_bytes()).summary())
    assert not may_hold(Message(letter().as_bytes()).summary())
    mail = letter()
    mail.add_attachment(b"unused", "application", "gzip", filename="r.xml.gz")
    message = Message(mail.as_bytes())
    assert may_hold(message.summary())
    assert [type(each) for each in in_mail(message)] == [BrokenReport]
