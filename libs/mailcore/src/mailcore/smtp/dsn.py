"""Delivery reports as SMTP asks for them: RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT (RFC 3461 §4, RFC 6533 §3).

The reports themselves are `mailcore.dsn`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mailcore.kit.errors import Invalid

MAX_ENVID = 100
"""Characters of the encoded value (RFC 3461 §4.4)."""
MAX_ORCPT = 500
"""The same for ORCPT (§4.2)."""

_PLAIN = re.compile(r"[!-*,-<>-~]+\Z")  # xchar: printable ASCII without "+" and "="
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNITEXT = re.compile(r"\\x\{([1-9A-F][0-9A-F]{1,5})\}")
_ATOM = re.compile(r"[A-Za-z0-9-]{1,60}\Z")


class Ret(StrEnum):
    """How much of the mail comes back with a report of failure."""

    FULL = "FULL"
    HDRS = "HDRS"


class Notify(StrEnum):
    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@dataclass(frozen=True, slots=True)
class DsnRequest:
    """What the sender wants to hear about one recipient. Values are decoded: they may hold anything, and are encoded to be said."""

    ret: Ret | None = None
    envid: str | None = None
    """The sender's own name for the envelope; printable ASCII."""
    notify: frozenset[Notify] = frozenset()
    """Empty: not said, which means FAILURE and perhaps DELAY (RFC 3461 §4.1). NEVER stands alone."""
    orcpt_type: str = "rfc822"
    orcpt: str | None = None
    """The recipient as it was before any alias or forward: an address of `orcpt_type`."""

    def __post_init__(self) -> None:
        if not _ATOM.match(self.orcpt_type):
            raise Invalid("The address type of an ORCPT is a word such as rfc822.")

    @property
    def on_mail(self) -> str:
        """` RET=… ENVID=…`, with a leading blank, or nothing."""
        ret = f" RET={self.ret}" if self.ret else ""
        return f"{ret} ENVID={xtext(self.envid)}" if self.envid else ret

    def on_rcpt(self, *, smtputf8: bool) -> str:
        """` NOTIFY=… ORCPT=…`. Beyond ASCII an address is written as UTF-8 only where SMTPUTF8 is in force (RFC 6533 §3)."""
        said = ""
        if self.notify:
            said = " NOTIFY=" + ",".join(each for each in Notify if each in self.notify)
        if self.orcpt:
            encoded = (
                xtext(self.orcpt) if self.orcpt_type != "utf-8" else utf8_xtext(self.orcpt, ascii_only=not smtputf8)
            )
            said += f" ORCPT={self.orcpt_type};{encoded}"
        return said


def parse_ret(value: str) -> Ret:
    """Raises Invalid."""
    try:
        return Ret(value.upper())
    except ValueError:
        raise Invalid("RET is FULL or HDRS.") from None


def parse_envid(value: str) -> str:
    """Raises Invalid."""
    if not value or len(value) > MAX_ENVID:
        raise Invalid(f"ENVID has 1 to {MAX_ENVID} characters.")
    return from_xtext(value)


def parse_notify(value: str) -> frozenset[Notify]:
    """Raises Invalid."""
    try:
        asked = frozenset(Notify(word) for word in value.upper().split(","))
    except ValueError:
        raise Invalid("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY.") from None
    if Notify.NEVER in asked and len(asked) > 1:
        raise Invalid("NOTIFY=NEVER stands alone.")
    return asked


def parse_orcpt(value: str) -> tuple[str, str]:
    """Type and address. Raises Invalid."""
    kind, semicolon, address = value.partition(";")
    if not semicolon or not address or len(value) > MAX_ORCPT or not _ATOM.match(kind):
        raise Invalid("ORCPT has the form rfc822;address.")
    kind = kind.lower()
    return kind, from_utf8_xtext(address) if kind == "utf-8" else from_xtext(address)


def xtext(text: str) -> str:
    """RFC 3461 §4: printable ASCII, with `+XX` for "+", "=" and all else. What is beyond ASCII goes as octets of UTF-8."""
    if _PLAIN.match(text):
        return text
    return "".join(chr(o) if 0x21 <= o <= 0x7E and o not in b"+=" else f"+{o:02X}" for o in text.encode())


def from_xtext(text: str) -> str:
    """Raises Invalid: not xtext, or not printable ASCII when decoded."""
    plain = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    if not _XTEXT.match(text) or not plain.isascii():
        raise Invalid("A value of a DSN parameter is not xtext (RFC 3461 section 4).")
    return _printable(plain)


def utf8_xtext(text: str, *, ascii_only: bool) -> str:
    r"""RFC 6533 §3: as `\x{HEX}` what is no xchar; with `ascii_only` what is beyond ASCII, too."""
    return "".join(
        c
        if ("!" <= c <= "~" and c not in "+=\\") or (not ascii_only and not c.isascii() and c.isprintable())
        else f"\\x{{{ord(c):X}}}"
        for c in text
    )


def from_utf8_xtext(text: str) -> str:
    """Raises Invalid."""
    if any(c in "+= " for c in text):
        raise Invalid("An ORCPT of type utf-8 is not as RFC 6533 section 3 has it.")
    plain = _UNITEXT.sub(lambda match: chr(code) if (code := int(match[1], 16)) < 0x110000 else "\x00", text)
    return _printable(plain)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise Invalid("A value of a DSN parameter holds control characters.")
    return text
