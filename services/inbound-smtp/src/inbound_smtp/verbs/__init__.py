"""What each command does: `async def verb(session, argument) -> Reply`, one line each in COMMON or in a listener's `verbs`.

A reply of 421 ends the connection. QUIT, DATA and STARTTLS, which do more than answer, do it through the session.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from inbound_smtp.verbs.data import data
from inbound_smtp.verbs.hello import ehlo, helo, starttls
from inbound_smtp.verbs.other import bdat, expn, help_, noop, quit_, rset, vrfy
from mailcore.smtp.reply import Reply

Verb = Callable[[Any, str], Awaitable[Reply]]

COMMON: dict[str, Verb] = {
    "EHLO": ehlo,
    "HELO": helo,
    "STARTTLS": starttls,
    "DATA": data,
    "RSET": rset,
    "NOOP": noop,
    "VRFY": vrfy,
    "EXPN": expn,
    "HELP": help_,
    "BDAT": bdat,
    "QUIT": quit_,
}
JUNK = frozenset(("EHLO", "HELO", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "BDAT"))
"""Commands that bring no mail nearer: too many of them in a row end the connection. So does what is no command at all."""
HTTP = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"))
"""A browser was made to talk to us: nothing of what follows is meant."""
