"""MAIL: a transaction begins (RFC 5321 §4.1.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inbound_smtp.checks import paths
from inbound_smtp.replies import BAD_SEQUENCE, OK, TOO_BIG, TOO_MUCH
from inbound_smtp.transaction import Incoming
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.mx import MxSession


def mail(session: MxSession, argument: str) -> Reply:
    if session.helo is None:
        return Reply(503, "Send EHLO or HELO first", "5.5.1")
    if session.transaction is not None:
        return BAD_SEQUENCE
    try:
        asked = paths.mail(argument, dsn=True)
    except paths.Refusal as refusal:
        return refusal.reply
    # RFC 1870 §6.1: known to be too big before it is sent
    if asked.size is not None and asked.size > session.listener.limits.message_bytes:
        return TOO_BIG
    if session.listener.per_sender.over(asked.sender.lower()):
        return TOO_MUCH
    session.listener.per_sender.note(asked.sender.lower())
    session.transaction = Incoming(
        asked.sender, smtputf8=asked.smtputf8, body_8bit=asked.body_8bit, ret=asked.ret, envid=asked.envid
    )
    return OK
