"""RSET, NOOP, VRFY, EXPN, HELP, QUIT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inbound_smtp.replies import BYE, OK, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.session import Session


def rset(session: Session[Any], argument: str) -> Reply:
    if argument:
        return syntax("RSET")
    session.reset()
    return OK


def noop(_: Session[Any], __: str) -> Reply:
    return OK


def vrfy(_: Session[Any], argument: str) -> Reply:
    if not argument:
        return syntax("VRFY address")
    # RFC 5321 §3.5.3: who has an address here is nobody's business
    return Reply(252, "Cannot say, but send some mail and it will be tried", "2.1.5")


def expn(_: Session[Any], __: str) -> Reply:
    return Reply(502, "EXPN is not supported", "5.5.1")


def help_(_: Session[Any], __: str) -> Reply:
    return Reply(214, "RFC 5321", "2.0.0")


def quit_(session: Session[Any], argument: str) -> Reply:
    if argument:
        return syntax("QUIT")
    session.leaving = True
    return BYE
