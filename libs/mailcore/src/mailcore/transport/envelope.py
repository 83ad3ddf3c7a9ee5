"""MAIL and RCPT of one mail for one peer, and what cannot be sent at all, or not to it."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from mailcore.smtp.reply import Reply
from mailcore.transport.base import Mail
from mailcore.transport.content import bare_line_end, octets
from mailcore.transport.session import Capabilities

# RFC 5321 §4.1.2, loosely: no control character, no angle bracket; a space only in a quoted local part
_ADDRESS = re.compile(
    r'(?:[^\x00-\x20<>"\x7f-\x9f\u2028\u2029\ud800-\udfff]+'
    r'|"(?:[^\x00-\x1f"\\\x7f-\x9f\u2028\u2029\ud800-\udfff]|\\[\x20-\x7e])*")'
    r'@[^\x00-\x20<>"@\x7f-\x9f\u2028\u2029\ud800-\udfff]+'
)
MAX_ADDRESS = 320
"""Octets: RFC 5321 §4.5.3.1: 64 for the local part, 255 for the domain, and the @."""


class Opening(NamedTuple):
    """The commands of a transaction before its content, without line ends."""

    mail_from: str
    rcpt_to: str


class Unsendable(Exception):
    """`rule` and `reply` say why: to this peer, or to any."""

    def __init__(self, rule: str, reply: Reply) -> None:
        super().__init__(str(reply))
        self.rule = rule
        self.reply = reply


def opening(mail: Mail, peer: Capabilities) -> Opening:
    """Raises Unsendable."""
    check(mail)
    ascii_paths = mail.rcpt_to.isascii() and mail.mail_from.isascii()
    seven_bit = mail.content.isascii()
    smtputf8 = not ascii_paths or (not seven_bit and _internationalized(mail.content))
    size = octets(mail.content)
    if smtputf8 and not (peer.smtputf8 and peer.eight_bit):  # RFC 6531 §3.1: one is not offered without the other
        _lacks_smtputf8(ascii_paths)
    if not seven_bit and not peer.eight_bit:
        # RFC 6152 §3
        _refuse("8bitmime", 554, "5.6.3", "the content has 8-bit octets and the peer takes 7 bits")
    if peer.max_size and size > peer.max_size:
        # RFC 1870 §6.1: it would be refused at MAIL
        _refuse("size", 552, "5.3.4", f"the mail has {size} octets and the peer takes {peer.max_size}")
    if mail.requiretls and not peer.requiretls:
        _refuse("requiretls-not-offered", 550, "5.7.30", "REQUIRETLS support required, and the peer does not offer it")

    mail_from = f"MAIL FROM:<{mail.mail_from}>"
    rcpt_to = f"RCPT TO:<{mail.rcpt_to}>"
    if peer.size:
        mail_from = f"{mail_from} SIZE={size}"  # RFC 1870 §6.1
    if not seven_bit:
        mail_from += " BODY=8BITMIME"
    if smtputf8:
        mail_from += " SMTPUTF8"
    if mail.requiretls:
        mail_from += " REQUIRETLS"  # RFC 8689 §4.2.1
    if mail.dsn and peer.dsn:
        mail_from += mail.dsn.on_mail
        rcpt_to += mail.dsn.on_rcpt(smtputf8=smtputf8)
    return Opening(mail_from, rcpt_to)


def unsendable(mail: Mail) -> tuple[str, Reply] | None:
    """Rule and words, when no peer may get this, whatever it speaks."""
    try:
        check(mail)
    except Unsendable as fault:
        return fault.rule, fault.reply
    return None


def check(mail: Mail) -> None:
    """Raises Unsendable when no peer may get this: it would break the protocol's frame."""
    if mail.mail_from and not _well_formed(mail.mail_from):
        _refuse("bad-address", 501, "5.1.7", "the return path is not an address")
    if not _well_formed(mail.rcpt_to):
        _refuse("bad-address", 501, "5.1.3", "the recipient is not an address")
    if bare_line_end(mail.content):
        _refuse("bare-line-ending", 554, "5.6.0", "the content has a CR or LF that is not part of a CRLF")


def _internationalized(content: bytes) -> bool:
    """Whether its header is UTF-8 beyond ASCII (RFC 6532). Other 8-bit octets there are an old sin, and no such message."""
    end = content.find(b"\r\n\r\n")
    head = content if end < 0 else content[:end]
    if head.isascii():
        return False
    try:
        head.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lacks_smtputf8(ascii_paths: bool) -> NoReturn:
    """RFC 6531 §3.5, §4.3: there is no honest way to write such an address or header in ASCII."""
    if not ascii_paths:
        _refuse("smtputf8", 553, "5.6.7", "the peer takes no address beyond ASCII (SMTPUTF8)")
    _refuse("smtputf8", 553, "5.6.9", "the header has an address beyond ASCII, and the peer takes none (SMTPUTF8)")


def _refuse(rule: str, code: int, enhanced: str, text: str) -> NoReturn:
    raise Unsendable(rule, Reply(code, text, enhanced))


def _well_formed(address: str) -> bool:
    return len(address) <= MAX_ADDRESS and _ADDRESS.fullmatch(address) is not None
