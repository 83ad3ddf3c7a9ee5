"""Test addresses: what an application can send to, to see every end that a mail can have, without any mail leaving.

    delivered@   250                                     → email.delivered
    bounced@     550 5.1.1 at RCPT                       → email.bounced
    complained@  250, and then a complaint               → email.delivered, email.complained
    suppressed@  as if it were on the suppression list   → email.suppressed

with `+label` on all but the last, on the domains of OUTBOUND__TEST_DOMAINS. Anything else there is 550 5.1.1. The mail goes the
whole way: queued, claimed, composed, signed, settled with an attempt and a conversation. It puts nobody on the suppression list,
so that the same test gives the same result tomorrow.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from mailcore.flow.settle import TEST_ADDRESS, TEST_COMPLAINT
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.transport import Destination, Hop, Mail, MailQueue
from mailcore.transport.base import BeforeDot, OnOutcome
from mailcore.transport.outcomes import own_reply
from outbound.routes import Finder, Found

_OK = Reply(250, "a test address took it; nothing was sent", "2.0.0")
_UNKNOWN = Reply(550, "a test address: this recipient does not exist", "5.1.1")
_SUPPRESSED = Reply(550, "a test address: suppressed, nothing was sent", "5.7.1")


class TestAddresses:
    """A finder before the route's own: mail to test domains goes to the simulator."""

    __test__ = False  # no test of pytest's

    def __init__(self, inner: Finder, domains: Collection[str]) -> None:
        self._inner = inner
        self._domains = frozenset(domain.lower() for domain in domains)
        self._simulator = Simulator()

    async def find(self, domain: str) -> Found:
        if domain in self._domains:
            return Found(f"test:{domain}", (Hop(domain, ()),), transport=self._simulator)
        return await self._inner.find(domain)


class Simulator:
    """A transport that never touches the network."""

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
        while True:
            mail = mails.pull()
            if mail is not None:
                on_outcome(mail, await self._outcome(mail, destination, before_dot))
            elif mails.closed:
                return
            else:
                await mails.wait(3600)

    async def close(self) -> None:
        """See `Transport.close`."""

    async def _outcome(self, mail: Mail, destination: Destination, before_dot: BeforeDot) -> Outcome:
        local, plus, _ = mail.rcpt_to.rpartition("@")[0].lower().partition("+")
        host = destination.hops[0].host
        if local == "suppressed" and not plus:
            return Outcome(Result.SUPPRESSED, _SUPPRESSED, rule=TEST_ADDRESS)
        if local not in ("delivered", "complained"):
            return Outcome(
                Result.BOUNCED, _UNKNOWN, host, rule=TEST_ADDRESS, conversation=_conversation(mail, _UNKNOWN)
            )
        try:
            allowed = await before_dot(mail)
        except Exception:  # as the seam says, an error is a no
            allowed = False
        if not allowed:
            reply = own_reply("lease-lost", "the delivery was taken from this process before the final dot")
            return Outcome(Result.DEFERRED, reply, host, rule="lease-lost")
        rule = TEST_COMPLAINT if local == "complained" else TEST_ADDRESS
        talk = _conversation(mail, Reply(250, "ok", "2.1.5"), _OK)
        return Outcome(Result.DELIVERED, _OK, host, rule=rule, conversation=talk, dot_sent=True)


def _conversation(mail: Mail, to_rcpt: Reply, to_dot: Reply | None = None) -> tuple[Line, ...]:
    """As a server would have said it."""
    now = time.time()
    said = [
        (f"MAIL FROM:<{mail.mail_from}>", "250 2.1.0 ok"),
        (f"RCPT TO:<{mail.rcpt_to}>", str(to_rcpt)),
    ]
    if to_dot is not None:
        said += [("DATA", "354 go ahead"), (f"[{len(mail.content)} octets] .", str(to_dot))]
    return tuple(line for ours, theirs in said for line in (Line(now, said=ours), Line(now, heard=theirs)))
