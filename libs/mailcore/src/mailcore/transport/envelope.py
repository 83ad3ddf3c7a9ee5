"""MAIL and RCPT of one mail for one peer, and what cannot be sent at all, or not to it."""

from __future__ import annotations

import re

from mailcore.smtp.reply import Reply
from mailcore.transport.base import Mail
from mailcore.transport.content import bare_line_end
from mailcore.transport.session import Capabilities

# RFC 5321 §4.1.2, loosely: no control character, no angle bracket; a space only in a quoted local part
_ADDRESS = re.compile(
    r'(?:[^\x00-\x20<>"\x7f-\x9f\u2028\u2029\ud800-\udfff]+'
    r'|"(?:[^\x00-\x1f"\\\x7f-\x9f\u2028\u2029\ud800-\udfff]|\\[\x20-\x7e])*")'
    r'@[^\x00-\x20<>"@\x7f-\x9f\u2028\u2029\ud800-\udfff]+'
)
MAX_ADDRESS = 320
"""Octets: RFC 5321 §4.5.3.1: 64 for the local part, 255 for the domain, and the @."""


def unsendable(mail: Mail) -> tuple[str, Reply] | None:
    """Rule and words, when no peer may get this: it would break the protocol's frame."""
    if mail.mail_from and not _well_formed(mail.mail_from):
        return "bad-address", Reply(501, "the return path is not an address", "5.1.7")
    if not _well_formed(mail.rcpt_to):
        return "bad-address", Reply(501, "the recipient is not an address", "5.1.3")
    if bare_line_end(mail.content):
        return "bare-line-ending", Reply(554, "the content has a CR or LF that is not part of a CRLF", "5.6.0")
    return None


def beyond(mail: Mail, capabilities: Capabilities) -> tuple[str, Reply] | None:
    """Rule and words, when this peer cannot take it."""
    if not capabilities.smtputf8 and not (mail.rcpt_to.isascii() and mail.mail_from.isascii()):
        # RFC 6531 §3.5
        return "smtputf8", Reply(550, "the peer takes no address beyond ASCII", "5.6.7")
    if not capabilities.eight_bit and not mail.content.isascii():
        # RFC 6152 §3
        return "8bitmime", Reply(554, "the content has 8-bit octets and the peer takes 7 bits", "5.6.3")
    return None


def commands(mail: Mail, capabilities: Capabilities) -> tuple[str, str]:
    """The two lines without their ends."""
    mail_from = f"MAIL FROM:<{mail.mail_from}>"
    if capabilities.size:
        mail_from = f"{mail_from} SIZE={len(mail.content)}"  # RFC 1870 §6.1
    if capabilities.eight_bit and not mail.content.isascii():
        mail_from += " BODY=8BITMIME"
    if not (mail.rcpt_to.isascii() and mail.mail_from.isascii()):
        mail_from += " SMTPUTF8"
    return mail_from, f"RCPT TO:<{mail.rcpt_to}>"


def _well_formed(address: str) -> bool:
    return len(address) <= MAX_ADDRESS and _ADDRESS.fullmatch(address) is not None
