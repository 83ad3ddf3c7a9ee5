"""Text of strangers' mail: charsets by an allow-list, encoded words, transfer encodings. Nothing here raises.

Python's codec registry holds what no mail may name (rot13, zlib, idna, unicode_escape, punycode, utf-7): so only listed charsets
are looked up, everything else is read as Latin-1 with nothing lost.
"""

from __future__ import annotations

import binascii
import re

_BY_NAME = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii", "ansi_x3.4-1968", "unknown-8bit", "utf-8mb4"), "utf-8"),
    # what calls itself Latin-1 is most often the Windows page that only adds to it
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "latin-1", "windows-1252"), "cp1252"),
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
    **{f"windows-{n}": f"cp{n}" for n in range(1250, 1259)},
    **{
        f"cp{n}": f"cp{n}"
        for n in (437, 850, 852, 855, 857, 858, 862, 864, 866, 874, 932, 949, 950, *range(1250, 1259))
    },
    "iso-8859-8-i": "iso8859-8",
    "windows-874": "cp874",
    "tis-620": "tis-620",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "macintosh": "mac-roman",
    **dict.fromkeys(("gb2312", "gbk", "gb18030", "hz-gb-2312", "cp936", "x-gbk"), "gb18030"),
    "big5": "big5hkscs",
    "big5-hkscs": "big5hkscs",
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"), "cp932"),
    "euc-jp": "euc-jp",
    **{f"iso-2022-jp{n}": f"iso2022-jp{n}" for n in ("", "-1", "-2", "-3")},
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ks_c_5601-1989", "windows-949", "ksc5601"), "cp949"),
    "iso-2022-kr": "iso2022-kr",
    **{name: name for name in ("utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le", "utf-32be")},
}
_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,64})\?([bBqQ])\?([^?\r\n]*)\?=")
_BETWEEN_WORDS = re.compile(
    r"(=\?[^?\s]{1,64}\?[bBqQ]\?[^?\r\n]*\?=)[ \t\r\n]+(?==\?[^?\s]{1,64}\?[bBqQ]\?[^?\r\n]*\?=)"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_LINE_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def decode_text(content: bytes, charset: str | None) -> str:
    """Bytes of a body as text. Without a charset: UTF-8 where it is valid, else as Windows-1252."""
    name = (charset or "").strip().lower()
    codec = _BY_NAME.get(name)
    if codec is None:
        codec = "latin-1" if name else "utf-8"
    if codec == "utf-8":
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            # a label of ASCII or none at all says nothing; one of UTF-8 does
            codec = "utf-8" if name in {"utf-8", "utf8"} else "cp1252"
    return content.decode(codec, "replace")


def decode_body(content: bytes, charset: str | None) -> str:
    """As `decode_text`, UTF-7 too: what is made of it is looked at afterwards, so that it hides nothing here. In headers, where it
    hid line ends and angle brackets from those who looked before, it stays as it is."""
    if (charset or "").strip().lower() in ("utf-7", "unicode-1-1-utf-7"):  # RFC 2152
        return content.decode("utf-7", "replace")
    return decode_text(content, charset)


def decode_header(value: bytes) -> str:
    """A header value (unfolded) as a line of text: encoded words (RFC 2047) and raw UTF-8 (RFC 6532), no control characters."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return decode_words(text)


def decode_words(text: str) -> str:
    if "=?" in text:
        # RFC 2047 §6.2: blanks between two encoded words are not part of the text
        text = _ENCODED_WORD.sub(_word, _BETWEEN_WORDS.sub(r"\1", text))
    return one_line(text)


def one_line(text: str) -> str:
    return _LINE_CONTROL.sub(" ", text).strip() if _LINE_CONTROL.search(text) else text.strip()


def many_lines(text: str) -> str:
    """Without what neither JSON nor the database can hold; line ends as LF."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


def decode_transfer(content: bytes, encoding: str) -> bytes:
    """RFC 2045 §6. An unknown encoding, or content that does not follow it, is left as it stands."""
    if encoding == "base64":
        return decode_base64(content) if _is_base64(content) else content
    if encoding == "quoted-printable":
        return binascii.a2b_qp(content)
    return content


def _is_base64(content: bytes) -> bool:
    """Or text under a wrong label: then at least every eighth character, blanks apart, is none of base64's."""
    letters = content.translate(None, b" \t\r\n=")
    return 8 * len(letters.translate(None, _NOT_BASE64)) > 7 * len(letters) or not letters


def decode_base64(content: bytes) -> bytes:
    """What can be read of it: foreign characters are skipped (RFC 2045 §6.8), missing padding is made up for."""
    try:
        return binascii.a2b_base64(content)
    except binascii.Error:
        digits = content.translate(None, _NOT_BASE64)
        # one digit alone holds no octet
        digits = digits[: len(digits) - 1] if len(digits) % 4 == 1 else digits
        return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def _word(match: re.Match[str]) -> str:
    charset, form, content = match.groups()
    raw = content.encode("ascii", "replace")
    decoded = decode_base64(raw) if form in "bB" else binascii.a2b_qp(raw, header=True)
    # RFC 2231 §5: a language may follow the charset
    return decode_text(decoded, charset.partition("*")[0])
