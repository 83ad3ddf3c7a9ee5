"""The mail transactions of one session: MAIL, RCPT, DATA, content, final dot (RFC 5321 §3.3, §4.1.1).

Pipelined (RFC 2920), a mail costs one round trip: its content and final dot travel in one write with MAIL, RCPT and DATA
of the next mail. §3.1 permits that: DATA ends a group, and what follows the final dot begins the next one.

    ours     MAIL a, RCPT a, DATA | content a ., MAIL b, RCPT b, DATA |              content b ., …
    peer's                  250, 250, 354 |                       250 a, 250, 250, 354 |

Where the peer offers CHUNKING, BDAT takes the place of DATA and of the dot (RFC 3030): its octets are counted, so that no line
in them can be taken for an end, and content still waits for the reply to RCPT. `final dot` below means the last BDAT, too.

Three rules hold whatever the peer does:
- The final dot goes only when RCPT was accepted and the caller said yes, lately.
- Without a reply to the final dot the mail is deferred with `dot_sent`, and no other hop is tried for it.
- With no final dot on its way a mail is safe to send elsewhere: it is handed back (`Lost`), not failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from mailcore.kit import failpoint
from mailcore.smtp.outcome import Line, Result
from mailcore.smtp.reply import Reply
from mailcore.transport import content
from mailcore.transport.base import BeforeDot, Mail, OnOutcome
from mailcore.transport.envelope import Unsendable, opening
from mailcore.transport.leave import Leave
from mailcore.transport.outcomes import TLS_OFF, own_reply, result_of
from mailcore.transport.session import Session, Source
from mailcore.transport.transaction import Lost, Transaction
from mailcore.transport.wire import CLOSING, Broken, Heard

RSET = b"RSET\r\n"
_NO_SUCH_COMMAND = (500, 502, 504)
_OUT_OF_SEQUENCE = 503
_TLS_FIRST = 530


class Exchange:
    """One session's run over a source of mails."""

    def __init__(self, session: Session, source: Source, before_dot: BeforeDot, on_outcome: OnOutcome) -> None:
        self._session = session
        self._wire = session.wire
        self._source = source
        self._before_dot = before_dot
        self._on_outcome = on_outcome
        self._current: Transaction | None = None
        self._next: Transaction | None = None
        self._pipelining = session.capabilities.pipelining
        self._chunking = session.capabilities.chunking
        self._refused_chunk = False
        """The transaction before ended with a refusal of BDAT: whether it is over, servers see differently."""
        timeouts = self._timeouts = session.timeouts
        before_content = (timeouts.mail, timeouts.rcpt)
        self._envelope_seconds = before_content if self._chunking else (*before_content, timeouts.data)
        self._loop = asyncio.get_running_loop()

    async def run(self, mail: Mail) -> None:
        """Deliver `mail` and whatever the source then gives. Every mail it took has its outcome, or was put back.

        Raises Lost for the one that was under way when the session ended before its final dot. Otherwise returns, with
        the session in step or no longer usable.
        """
        self._current = self._begin(mail) or self._pull()
        try:
            if self._current:
                self._current.behind = False
                if self._pipelining:
                    self._write([], 0, self._current)
            while self._current:
                await (self._pipelined(self._current) if self._pipelining else self._lock_step(self._current))
                self._current, self._next = self._next, None
        except Broken as broken:
            self._give_up(broken)
        except asyncio.CancelledError:
            self._session.abort()
            self._give_up_for_good(Broken("cancelled", "this process ended the delivery"))
            raise
        except Exception as error:
            self._session.abort()
            self._give_up_for_good(Broken("internal-error", f"this process failed ({type(error).__name__})"))
            self._loop.call_exception_handler({"message": "an exchange failed", "exception": error})

    # ---- one mail, pipelined

    async def _pipelined(self, now: Transaction) -> None:
        """Its envelope has been written; at the end that of `self._next` has."""
        wire = self._wire
        await wire.wait(self._envelope_seconds)
        mail = self._hear(now)
        rcpt = self._hear_rest(now, mail)
        if self._chunking:
            self._judge(now, rcpt)
            if now.done:
                await self._resync(RSET if _accepted(mail) or _accepted(rcpt) else b"")
            else:
                failpoint.hit("f7")
                await self._send(now)
                if self._refused_chunk and not self._next:
                    self._refused_chunk = False
                    await self._resync(RSET)
            return
        data = self._hear_rest(now, rcpt)
        if now.done:
            if data.code == 354 and _accepted(rcpt):
                self._session.abort()  # MAIL was refused, and yet it would give somebody what now comes
            elif data.code == 354:
                # RFC 2920 §3.1: DATA may be taken though no recipient was; a single dot ends it, and nobody gets anything
                await self._resync(b".\r\n")
            else:
                # also when MAIL was refused: a server that takes RCPT nevertheless would give this one the next mail
                await self._resync(RSET if _accepted(mail) or _accepted(rcpt) else b"")
        elif data.code == 354:
            failpoint.hit("f7")
            await self._send(now)
        else:
            self._refused(now, data)
            await self._resync(RSET)

    def _hear_rest(self, now: Transaction, before: Heard) -> Heard:
        """The next reply of the group, once the one before it is judged: a refusal counts even when the rest is lost."""
        self._judge(now, before)
        return self._hear(now)

    def _judge(self, now: Transaction, heard: Heard) -> None:
        if not now.done and not _accepted(heard):
            self._refused(now, heard)

    async def _resync(self, octets: bytes) -> None:
        """End the refused transaction (RFC 5321 §4.1.4: no MAIL inside one) and begin the next in the same write."""
        self._next = self._pull()
        if octets:
            self._write([octets], 1, self._next)
            await self._over(octets)
        else:
            self._write([], 0, self._next)

    async def _over(self, octets: bytes) -> None:
        """The reply to what ends a transaction. Without a yes to RSET the next mail could go to this one's recipient."""
        await self._wire.wait((self._timeouts.mail,))
        heard = self._wire.next()
        if octets is RSET and not _accepted(heard):
            raise self._out_of_step(heard)

    # ---- one mail in lock-step

    async def _lock_step(self, now: Transaction) -> None:
        mail_from, rcpt_to = now.opening
        opened = False
        for said, seconds in ((mail_from, self._timeouts.mail), (rcpt_to, self._timeouts.rcpt)):
            heard = await self._ask(now, said, seconds)
            if not _accepted(heard):
                self._refused(now, heard)
                break
            opened = True
        else:
            now.leave = Leave(self._before_dot, now.mail)
            if self._chunking or (heard := await self._ask(now, "DATA", self._timeouts.data)).code == 354:
                failpoint.hit("f7")
                await self._send(now)
                opened, self._refused_chunk = self._refused_chunk, False
            else:
                self._refused(now, heard)
        if opened:
            self._wire.write(RSET, 1)
            await self._over(RSET)
        self._next = self._pull()

    async def _ask(self, now: Transaction, said: str, seconds: float) -> Heard:
        now.lines.append(Line(time.time(), said))
        self._wire.write(f"{said}\r\n".encode(), 1)
        await self._wire.wait((seconds,))
        return self._hear(now)

    # ---- content and final dot

    async def _send(self, now: Transaction) -> None:
        """The recipient was accepted, and 354 heard where there is DATA."""
        last: list[bytes] | None
        pieces = now.pieces(chunking=self._chunking)
        if len(now.mail.content) > content.PIECE:
            if not await self._may_send(now) or (last := await self._stream(now, pieces)) is None:
                return
        else:
            last = list(pieces)
        if not await self._may_send(now):
            return
        failpoint.hit("f8")
        if self._pipelining:
            self._next = self._pull()
        now.said_content(last[-1], chunking=self._chunking)
        now.dot_sent = True
        self._write(last, 1, self._next)
        impatient = self._next is not None and self._timeouts.patience < self._timeouts.dot
        if impatient and not await self._wire.wait((self._timeouts.patience,), soft=True):
            # RFC 5321 §4.5.3.2.6 gives the peer ten minutes; the mail behind need not wait for them. Its DATA is out and
            # can only be taken back by closing, so this session ends with the reply to this mail.
            following, self._next = self._next, None
            if following:
                self._put_back(following)
            self._session.retiring = True
        await self._wire.wait((self._timeouts.dot,))
        failpoint.hit("f10")  # here, not at the write: the loop sends later, and the peer shall have it
        heard = self._wire.next()
        now.heard(heard)
        if self._chunking and heard.code in _NO_SUCH_COMMAND:
            self._no_chunking(now)
        reply = heard.reply()
        self._report(now, result_of(reply), reply)
        if 300 <= heard.code < 400 or (self._session.retiring and not self._wire.quiet):
            self._session.abort()
        elif self._chunking and heard.code >= 400:
            self._refused_chunk = True

    async def _stream(self, now: Transaction, pieces: Iterator[bytes]) -> list[bytes] | None:
        """Content too large for one write, as fast as the peer takes it, but for its last piece, which is returned.

        None: the peer has refused it already.
        """
        wire, block = self._wire, self._timeouts.block
        replies = int(self._chunking)
        if not replies:
            wire.expect(1)  # a refusal may come before the peer has everything
        last = next(pieces)
        awaited = 0
        for piece in pieces:
            wire.write(last, replies)
            last = piece
            awaited += replies
            while not await wire.drain(block):
                if not self._piece_taken(now):
                    return None
                awaited -= 1
        if not replies:
            wire.expect(-1)
        for _ in range(awaited):
            await wire.wait((block,))
            if not self._piece_taken(now):
                return None
        return [last]

    def _piece_taken(self, now: Transaction) -> bool:
        """Judges a reply that came before the end of the content. False: there is no use in the rest."""
        heard = self._wire.next()
        if heard.code == CLOSING and self._wire.broken:
            now.heard(heard)
            raise self._wire.broken
        if self._chunking and _accepted(heard):
            return True
        now.heard(heard)
        self._session.abort()
        if self._chunking and heard.code in _NO_SUCH_COMMAND:
            self._no_chunking(now)
        self._refused(now, heard)
        return False

    def _no_chunking(self, now: Transaction) -> None:
        """It offered CHUNKING and does not know BDAT: it has not kept the mail, and has read its content as commands."""
        now.dot_sent = False
        self._session.no_chunking = True
        self._session.abort()
        raise Broken("chunking-refused", "the peer offers CHUNKING and does not know BDAT")

    async def _may_send(self, now: Transaction) -> bool:
        """Whether the caller lets the final dot go; else the mail is deferred."""
        assert now.leave is not None
        if await now.leave.given(age=self._timeouts.gate_age, seconds=self._timeouts.block):
            if self._wire.broken:
                raise self._wire.broken
            return True
        # there is no way back from 354 but to close: RSET would be content
        self._session.abort()
        text = "the delivery was taken from this process before the final dot"
        self._report(now, Result.DEFERRED, own_reply("lease-lost", text), "lease-lost")
        return False

    # ---- beginning a transaction

    def _pull(self) -> Transaction | None:
        """The next mail that can be sent on this session; one that cannot gets its outcome here."""
        while not (self._wire.broken or self._session.retiring):
            mail = self._source.pull(self._session)
            if mail is None:
                return None
            transaction = self._begin(mail)
            if transaction:
                transaction.behind = True
                return transaction
        return None

    def _begin(self, mail: Mail) -> Transaction | None:
        session = self._session
        lines, session.lines = session.lines, []
        if session.mails:
            lines.append(Line(time.time(), f"[on a connection {session.opened}]"))
        transaction = Transaction(mail, lines)
        try:
            transaction.opening = opening(mail, session.capabilities)
        except Unsendable as fault:
            self._report(transaction, Result.FAILED, fault.reply, fault.rule)
            return None
        session.mails += 1
        return transaction

    def _write(self, out: list[bytes], replies: int, following: Transaction | None) -> None:
        """`out`, and the envelope of the mail that follows, in one write."""
        if following:
            envelope, more = following.envelope(chunking=self._chunking)
            out.append(envelope)
            replies += more
        if out:
            self._wire.write(b"".join(out), replies)
        if following:
            following.leave = Leave(self._before_dot, following.mail)

    # ---- hearing and ending

    def _hear(self, now: Transaction) -> Heard:
        """The reply to a command of the envelope. Raises Broken, on 421 too."""
        heard = self._wire.next()
        now.heard(heard)
        if heard.code == CLOSING and self._wire.broken:
            raise self._wire.broken  # behind another mail it is about the session: "that was it"
        if now.behind and self._refused_chunk and heard.code == _OUT_OF_SEQUENCE:
            raise self._out_of_step(heard)  # for that server the transaction before goes on: no word about this mail
        now.behind = self._refused_chunk = False
        return heard

    def _refused(self, now: Transaction, heard: Heard) -> None:
        """A reply before the final dot that ends the transaction."""
        if heard.code < 400:
            raise self._out_of_step(heard)
        reply, session = heard.reply(), self._session
        if heard.code == _TLS_FIRST and session.tls is None and session.capabilities.starttls:
            # RFC 3207 §4: it says what would help, and the next connection tries it, or the operator mends what forbids that
            session.tls_demanded = session.retiring = True
            if session.tls_off:
                self._report(now, Result.DEFERRED, own_reply("tls-off", f"{TLS_OFF} ({reply})"), "tls-off")
            else:
                self._report(now, Result.DEFERRED, reply, "tls-demanded")
        else:
            self._report(now, result_of(reply), reply)

    def _out_of_step(self, heard: Heard) -> Broken:
        """A success that makes no sense here: replies and commands no longer match."""
        broken = Broken("unexpected-reply", f"the peer is out of step: {heard.code} {heard.texts[0]}")
        self._wire.sever(broken.rule, broken.text)
        return broken

    def _report(self, now: Transaction, result: Result, reply: Reply, rule: str | None = None) -> None:
        session = self._session
        now.done = True
        session.useful = session.useful or (rule is None and reply.code != CLOSING)
        self._on_outcome(now.mail, now.outcome(session, result, reply, rule))

    def _put_back(self, transaction: Transaction) -> None:
        if transaction.leave:
            transaction.leave.forget()
        self._source.put_back(transaction.mail)

    def _give_up(self, broken: Broken) -> None:
        """The session has ended under us."""
        now, following = self._current, self._next
        self._current = self._next = None
        if following:
            self._put_back(following)
        if now is None or now.done:
            return
        if now.dot_sent:
            rule = "reply-lost" if broken.rule in ("connection-lost", "timeout", "closing") else broken.rule
            text = f"no reply to the final dot was read: {broken.text}"
            self._report(now, Result.DEFERRED, own_reply(rule, text), rule)
        elif now.behind:
            self._put_back(now)
        else:
            if now.leave:
                now.leave.forget()
            raise Lost(now.mail, broken, tuple(now.lines))

    def _give_up_for_good(self, broken: Broken) -> None:
        """The same, when there will be no other try in this call."""
        try:
            self._give_up(broken)
        except Lost as lost:
            transaction = Transaction(lost.mail, list(lost.conversation))
            self._report(transaction, Result.DEFERRED, own_reply(broken.rule, broken.text), broken.rule)


def _accepted(heard: Heard) -> bool:
    return 200 <= heard.code < 300
