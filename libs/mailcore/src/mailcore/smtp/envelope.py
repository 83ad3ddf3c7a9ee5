"""The envelope: who gets the mail, and where its failures go (RFC 5321 §2.3.1). Not the header."""

from __future__ import annotations

from typing import NamedTuple


class Envelope(NamedTuple):
    mail_from: str
    """Return path; empty for `<>` (RFC 5321 §4.5.5)."""
    rcpt_to: tuple[str, ...]
    smtputf8: bool = False
    body_8bit: bool = False
