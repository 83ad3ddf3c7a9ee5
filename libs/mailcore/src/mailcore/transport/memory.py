"""The stand-in for `Pool`: a transport without network, for tests of what uses one."""

from __future__ import annotations

from collections.abc import Callable

from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.transport.base import BeforeDot, Destination, Mail, OnOutcome
from mailcore.transport.envelope import unsendable
from mailcore.transport.mail_queue import MailQueue
from mailcore.transport.outcomes import own_reply, result_of


class MemoryTransport:
    """Answers each mail with `answer(mail)`, 250 by default, and keeps what was delivered in `delivered`."""

    def __init__(self, answer: Callable[[Mail], Reply] | None = None) -> None:
        self._answer = answer or (lambda _: Reply(250, "OK", "2.0.0"))
        self.delivered: list[Mail] = []

    async def deliver(
        self,
        destination: Destination,
        mails: MailQueue,
        *,
        connections: int,
        before_dot: BeforeDot,
        on_outcome: OnOutcome,
    ) -> None:
        """See `Transport.deliver`."""
        hop = destination.hops[0]
        while True:
            mail = mails.pull()
            if mail is None:
                if mails.closed:
                    return
                await mails.wait(3600)
                continue
            if fault := unsendable(mail):
                on_outcome(mail, Outcome(Result.FAILED, fault[1], hop.host, rule=fault[0]))
                continue
            try:
                allowed = await before_dot(mail)
            except Exception:
                allowed = False
            if not allowed:
                reply = own_reply("lease-lost", "the delivery was taken from this process before the final dot")
                on_outcome(mail, Outcome(Result.DEFERRED, reply, hop.host, rule="lease-lost"))
                continue
            reply = self._answer(mail)
            result = result_of(reply)
            if result is Result.DELIVERED:
                self.delivered.append(mail)
            on_outcome(mail, Outcome(result, reply, hop.host, dot_sent=True))

    async def close(self) -> None:
        """See `Transport.close`."""
