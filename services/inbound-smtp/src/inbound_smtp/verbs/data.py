"""DATA and BDAT: the message is read, looked at, and on disk before 250 (RFC 5321 §4.1.1.4, §4.2.5, RFC 3030 §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inbound_smtp.replies import BAD_SEQUENCE, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.session import Session

GO_AHEAD = Reply(354, "End data with <CR><LF>.<CR><LF>")
NO_RECIPIENTS = Reply(554, "No valid recipients", "5.5.1")
ENDLESS = Reply(421, "A chunk of that size is never taken", "4.7.0")


def data(session: Session[Any], argument: str) -> Reply:
    transaction = session.transaction
    if transaction is None or session.chunking:
        return BAD_SEQUENCE  # RFC 3030 §2: DATA and BDAT do not mix
    if argument:
        return syntax("DATA")
    if not transaction.recipients:
        # RFC 2920 §3.1: a client that pipelined DATA behind refused recipients hears it here
        return NO_RECIPIENTS
    session.begin_data()
    return GO_AHEAD


def bdat(session: Session[Any], argument: str) -> Reply | None:
    """None: the reply comes after the chunk. The octets of a chunk that is refused are read all the same: they are no commands."""
    size, _, last = argument.upper().partition(" ")
    if not (size.isascii() and size.isdigit() and len(size) <= 20) or last not in ("", "LAST"):
        return syntax("BDAT octets [LAST]")
    if int(size) > 2 * session.listener.limits.message_bytes:
        return ENDLESS
    transaction = session.transaction
    refused = None
    if transaction is None:
        refused = BAD_SEQUENCE
    elif not transaction.recipients:
        refused = NO_RECIPIENTS
    session.begin_chunk(int(size), last=bool(last), refused=refused)
    return None
