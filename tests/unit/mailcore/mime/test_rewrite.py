from __future__ import annotations

from email import policy
from email.message import EmailMessage
from email.parser import BytesParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Refused
from mailcore.mime.compose import is_7bit
from mailcore.mime.rewrite import Leaf, rewrite, seven_bit

PLAIN = b"From: a@us.test\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nplain\r\n"


def read(raw: bytes) -> EmailMessage:
    return BytesParser(policy=policy.default).parsebytes(raw)


def mixed(*parts: bytes, head: bytes = b"", kind: bytes = b"mixed", between: bytes = b"") -> bytes:
    body = b"".join([b"--=x\r\n%b\r\n" % part for part in parts])
    return (
        b'From: a@us.test\r\n%bMIME-Version: 1.0\r\nContent-Type: multipart/%b; boundary="=x"\r\n\r\n%b%b--=x--\r\n'
        % (
            head,
            kind,
            between,
            body,
        )
    )


ATTACHED = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBE\r\nRi0x\r\n"
UMLAUT = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße,\r\n".encode()


def test_a_7_bit_message_is_returned_as_it_is() -> None:
    assert seven_bit(PLAIN) is PLAIN
    raw = mixed(ATTACHED)
    assert seven_bit(raw) is raw


def test_only_what_is_8_bit_is_encoded() -> None:
    done = seven_bit(mixed(UMLAUT, ATTACHED, head=b"Content-Transfer-Encoding: 8bit\r\n"))
    assert is_7bit(done)
    assert b"\r\n--=x\r\n" + ATTACHED in done
    parts = list(read(done).iter_parts())
    assert parts[0].get_content() == "Grüße,\r\n"
    assert parts[0]["content-transfer-encoding"] == "base64"
    assert read(done)["content-transfer-encoding"] == "7bit"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("Grüße " * 5 + "x" * 200, "quoted-printable"), ("Привет " * 40, "base64"), ("x" * 5_000, "quoted-printable")],
)
def test_the_shorter_encoding_is_taken(content: str, encoding: str) -> None:
    raw = PLAIN.replace(b"plain\r\n", content.encode() + b"\r\n")
    done = seven_bit(raw)
    assert is_7bit(done)
    assert read(done).get_content() == content + "\r\n"
    assert read(done)["content-transfer-encoding"] == encoding


def test_8_bit_without_any_mime_header_becomes_mime() -> None:
    done = read(seven_bit("From: a@us.test\r\nSubject: x\r\n\r\nGrüße\r\n".encode()))
    assert (done["mime-version"], done.get_content_type(), done.get_content()) == ("1.0", "text/plain", "Grüße\r\n")


def test_raw_utf_8_in_header_fields_is_encoded() -> None:
    head = "Subject: Grüße\r\nTo: Jürgen <j@us.test>, k@übel.test\r\n".encode()
    part = 'Content-Type: application/pdf; name="Größe.pdf"\r\nContent-Disposition: attachment;\r\n filename="Größe.pdf"\r\n'
    done = seven_bit(mixed(part.encode() + b"\r\nx\r\n", head=head))
    assert is_7bit(done)
    found = read(done)
    assert found["subject"] == "Grüße"
    assert [a.display_name for a in found["to"].addresses] == ["Jürgen", ""]
    assert [a.addr_spec for a in found["to"].addresses] == ["j@us.test", "k@xn--bel-goa.test"]
    assert next(found.iter_attachments()).get_filename() == "Größe.pdf"


def test_an_enclosed_message_is_converted_inside() -> None:
    inner = "From: b@us.test\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode()
    done = seven_bit(mixed(b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + inner))
    assert is_7bit(done)
    enclosed = next(read(done).iter_attachments())
    assert enclosed["content-transfer-encoding"] == "7bit"
    assert enclosed.get_content()["subject"] == "Grüße"
    assert enclosed.get_content().get_content() == "Grüße\r\n"


def test_text_outside_of_all_parts_goes_where_it_is_not_7_bit() -> None:
    done = seven_bit(mixed(ATTACHED, between="Für alte Leser\r\nold readers\r\n".encode()))
    assert is_7bit(done)
    assert b"\r\n\r\nold readers\r\n--=x\r\n" + ATTACHED in done


SIGNATURE = b"Content-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        mixed(UMLAUT, SIGNATURE, kind=b"signed"),
        mixed(ATTACHED, SIGNATURE, kind=b"signed", between="ü\r\n".encode()),
        mixed(b"Content-Type: message/delivery-status\r\n\r\n\xfc\r\n"),
        mixed(b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n\xfc\r\n"),
        mixed(b"Content-Type: text/plain\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n\xfc\r\n"),
        PLAIN.replace(b"text/plain", b"multipart/mixed").replace(b"plain\r\n", b"\xfc\r\n"),
        b"Subject: gr\xfc\xdfe\r\n" + PLAIN,
        "To: jürgen@us.test\r\n".encode() + PLAIN,
        mixed(*[UMLAUT] * 1_200),
    ],
    ids=[
        "signed",
        "signed-preamble",
        "report",
        "encoded-message",
        "uuencode",
        "no-parts",
        "latin-1",
        "address",
        "many",
    ],
)
def test_what_cannot_be_converted_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        seven_bit(raw)
    assert refused.value.code in (553, 554)


def test_what_is_signed_and_7_bit_stays_while_the_rest_is_converted() -> None:
    signed = b'Content-Type: multipart/signed; boundary="=y"\r\n\r\n--=y\r\n%b\r\n--=y\r\n%b--=y--\r\n' % (
        ATTACHED,
        SIGNATURE,
    )
    done = seven_bit(mixed(signed, UMLAUT))
    assert is_7bit(done)
    assert signed in done


def test_rewrite_changes_leaves_and_leaves_the_rest() -> None:
    html = b"Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>gr=FC=DFe</p>\r\n"
    seen: list[Leaf] = []

    def change(leaf: Leaf) -> str | None:
        seen.append(leaf)
        return leaf.text().replace("<p>", "<p>Ω ") if leaf.content_type == "text/html" and leaf.is_body else None

    done = rewrite(mixed(ATTACHED, html), change)
    assert [(leaf.content_type, leaf.sealed) for leaf in seen] == [("application/pdf", False), ("text/html", False)]
    assert b"--=x\r\n" + ATTACHED in done
    part = list(read(done).iter_parts())[1]
    assert (part.get_content(), part.get_content_charset()) == ("<p>Ω grüße</p>\r\n", "utf-8")
    assert rewrite(done, lambda leaf: None) is done
    inside: list[bool] = []
    rewrite(mixed(ATTACHED, SIGNATURE, kind=b"signed"), lambda leaf: inside.append(leaf.sealed))  # type: ignore[func-returns-value]
    assert inside == [True, True]


TEXTS = st.text(st.characters(exclude_characters="\r\x00", exclude_categories=("Cs",)), max_size=300)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["utf-8", "utf-16le"]), st.booleans()), min_size=1, max_size=4))
def test_whatever_the_text_it_is_7_bit_afterwards_and_says_the_same(texts: list[tuple[str, str, bool]]) -> None:
    contents = [text.replace("\n", "\r\n").encode(charset) for text, charset, _ in texts]
    if any(content.count(b"\r") != content.count(b"\r\n") or b"=x" in content for content in contents):
        return
    parts = [
        b"Content-Type: %b\r\n\r\n%b" % (b"text/plain" if is_text else b"application/octet-stream", content)
        for content, (_, _, is_text) in zip(contents, texts, strict=True)
    ]
    raw = mixed(*parts)
    if raw.count(b"\n") != raw.count(b"\r\n"):
        return
    done = seven_bit(raw)
    assert is_7bit(done)
    assert [part.get_payload(decode=True) for part in read(done).iter_parts()] == contents


@given(st.binary(max_size=400))
def test_no_input_ends_in_an_unforeseen_error(octets: bytes) -> None:
    raw = octets.replace(b"\r", b"").replace(b"\n", b"\r\n")
    for message in (raw, mixed(raw), b"Content-Type: message/rfc822\r\n\r\n" + raw):
        try:
            assert is_7bit(seven_bit(message))
        except Refused:
            pass
