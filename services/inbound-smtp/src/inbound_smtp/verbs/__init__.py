"""What each command does: `def verb(session, argument)`, one line each in COMMON or in a listener's `verbs`.

It returns its Reply; or, where something must be waited for, an awaitable of one, or `Later`. Most answer at once: a command then
costs no task. A reply of 421 ends the connection. QUIT, DATA, BDAT and STARTTLS, which do more than answer, do it through the
session; None: what they began will have its reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from inbound_smtp.verbs.data import bdat, data
from inbound_smtp.verbs.hello import ehlo, helo, starttls
from inbound_smtp.verbs.other import expn, help_, noop, quit_, rset, vrfy
from mailcore.smtp.reply import Reply


class Later(NamedTuple):
    """A reply made of what a future comes to, without a task of its own."""

    future: asyncio.Future[Any]
    reply: Callable[[Any], Reply]


Answer = Reply | Awaitable[Reply] | Later
Verb = Callable[[Any, str], Answer | None]

COMMON: dict[str, Verb] = {
    "EHLO": ehlo,
    "HELO": helo,
    "STARTTLS": starttls,
    "DATA": data,
    "BDAT": bdat,
    "RSET": rset,
    "NOOP": noop,
    "VRFY": vrfy,
    "EXPN": expn,
    "HELP": help_,
    "QUIT": quit_,
}
JUNK = frozenset(("EHLO", "HELO", "RSET", "NOOP", "VRFY", "EXPN", "HELP"))
"""Commands that bring no mail nearer: too many of them in a row end the connection. So does what is no command at all."""
HTTP = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE"))
"""A browser was made to talk to us: nothing of what follows is meant."""
