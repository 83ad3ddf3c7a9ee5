"""DATA: the message is read, looked at, and on disk before 250 (RFC 5321 §4.1.1.4, §4.2.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from inbound_smtp.checks import content
from inbound_smtp.replies import BAD_SEQUENCE, NO_MEMORY, TOO_BIG, syntax
from mailcore.smtp.reply import Reply

if TYPE_CHECKING:
    from inbound_smtp.session import Session
    from inbound_smtp.transaction import Transaction
    from inbound_smtp.wire import Content

GO_AHEAD = Reply(354, "End data with <CR><LF>.<CR><LF>")


OFF_LOOP_BYTES = 1024 * 1024
"""Looking at more than this would hold up everybody else."""


async def data(session: Session[Any], argument: str) -> Reply:
    """Raises what ends the connection: Closed, TooSlow, Flood."""
    transaction = session.transaction
    if transaction is None:
        return BAD_SEQUENCE
    if argument:
        return syntax("DATA")
    if not transaction.recipients:
        # RFC 2920 §3.1: a client that pipelined DATA behind refused recipients hears it here
        return Reply(554, "No valid recipients", "5.5.1")
    session.reply(GO_AHEAD)
    read = await session.read_message()
    session.transaction = None
    try:
        return await _take(session, transaction, read)
    finally:
        # not before: while a store hangs, the mail is still here
        session.listener.memory.give_back(read.held)


async def _take(session: Session[Any], transaction: Transaction[Any], read: Content) -> Reply:
    if read.raw is None:
        return NO_MEMORY if read.starved else TOO_BIG
    refused = await _check(read.raw, session.listener.limits.line_bytes)
    if refused is not None:
        return refused
    reply = await session.take(transaction, read.raw)
    if reply.code == 250:
        session.junk = 0
    return reply


async def _check(raw: bytes, max_line: int) -> Reply | None:
    if len(raw) <= OFF_LOOP_BYTES:
        return content.check(raw, max_line=max_line)
    return await asyncio.to_thread(content.check, raw, max_line=max_line)
