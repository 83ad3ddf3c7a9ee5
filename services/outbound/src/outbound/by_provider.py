"""A provider's API as a transport: mails of one email share a request, each gets an Outcome.

1. mails with the same octets that wait one behind the other are one letter; its requests by what the provider takes
2. `before_dot` for each, before the request leaves: from then on the provider may have the mail
3. the answer as an Outcome: what is about the account or the provider's health says so by its rule, so that the site rests and
   the next way takes over; what is about the mail is about the mail

The HTTP client is the process's own; a site's number of connections is held over all calls.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from mailcore.flow.settle import PROVIDER_REFUSED
from mailcore.kit.errors import Refused
from mailcore.kit.log import logger
from mailcore.providers.base import Letter, Reading, Request, Sender, Verdict
from mailcore.providers.client import Client, Exchange, NotSent, Unheard
from mailcore.providers.mapped import requests
from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store.deliveries import Leased
from mailcore.transport import Destination, Mail, MailQueue
from mailcore.transport.base import BeforeDot, OnOutcome
from mailcore.transport.envelope import Unsendable, check
from mailcore.transport.outcomes import own_reply

log = logger(__name__)

STRIKES = 2
"""Failures of the provider's own in a row after which it is not tried with more mail."""
OFF_LOOP_BYTES = 32_768
"""Composing a request out of more than this would hold up everybody else."""
MOST_PAUSE = 30.0
"""Seconds that a 429 may hold up this site here; whoever asks for more is tried again when it has passed."""
LOOK_SECONDS = 1.0
"""How often a pause looks whether there is still something to wait for."""
MAX_HEARD = 500

DOWN_RULES = frozenset(("way-down", "way-failing", "way-refuses-account", "connect-failed"))
"""Rules of outcomes that are about the way, not about the mail."""

Group: TypeAlias = list[Mail]


class ByProvider:
    """One a way and process."""

    def __init__(self, sender: Sender, client: Client, *, reports: bool) -> None:
        """`reports`: it posts events to us, so that what it takes is relayed until then; else it counts as delivered."""
        self._sender = sender
        self._client = client
        self._reports = reports
        self._strikes = 0
        self._not_before = 0.0
        self._most: dict[object, int] = {}
        self._busy: Counter[object] = Counter()
        """Requests under way, by what Destinations share."""
        self._freed = asyncio.Event()

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
        key = destination.pool_key
        self._most[key] = connections
        self._freed.set()
        waiting: dict[int, Group] = {}
        """Taken off the queue, and not begun."""
        try:
            async with asyncio.TaskGroup() as letters:
                while True:
                    if not await mails.wait(3600):
                        if mails.closed and not len(mails):
                            return
                        continue
                    await self._turn(key, mails)
                    # between the wait and here they may have been taken back
                    if group := self._pull(mails):
                        self._busy[key] += 1
                        waiting[id(group)] = group
                        letters.create_task(self._one(key, waiting, group, before_dot, on_outcome))
        finally:
            for group in waiting.values():
                self._busy[key] -= 1
                for mail in group:
                    on_outcome(mail, _put_back("this process stops"))

    async def close(self) -> None:
        """See `Transport.close`: the client is the process's."""

    async def _turn(self, key: object, mails: MailQueue) -> None:
        """Until a connection is free and the provider's pause is over, or nothing is left to send."""
        while len(mails) or not mails.closed:
            if (pause := self._not_before - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(min(pause, LOOK_SECONDS))
            elif self._busy[key] >= self._most[key]:
                self._freed.clear()
                await self._freed.wait()
            else:
                return

    async def _one(
        self, key: object, waiting: dict[int, Group], group: Group, before_dot: BeforeDot, on_outcome: OnOutcome
    ) -> None:
        del waiting[id(group)]
        left = {id(mail): mail for mail in group}

        def tell(mail: Mail, outcome: Outcome) -> None:
            del left[id(mail)]
            on_outcome(mail, outcome)

        try:
            await self._send_all(group, before_dot, tell)
        except asyncio.CancelledError:
            # of those that had left their request has told
            for mail in list(left.values()):
                tell(mail, _put_back("this process stops"))
            raise
        except Exception as error:
            log.error("sending by a provider failed", host=self._sender.host, exc_info=error)
            said = Line(time.time(), said="[this process failed here]")
            for mail in list(left.values()):
                tell(mail, self._outcome("internal-error", "this process failed", said, dot_sent=True))
        finally:
            self._busy[key] -= 1
            self._freed.set()

    def _pull(self, mails: MailQueue) -> Group:
        first = mails.pull()
        if first is None:
            return []
        group = [first]
        while len(group) < self._sender.most_recipients and (following := mails.pull()) is not None:
            # copies of one email are the same object (outbound.deliver)
            if following.content is not first.content or _email(following) != _email(first):
                mails.put_back(following)
                break
            group.append(following)
        return group

    # ---- one letter -------------------------------------------------------------------------------------------------

    async def _send_all(self, group: Group, before_dot: BeforeDot, on_outcome: OnOutcome) -> None:
        ready: dict[str, Mail] = {}
        for mail in group:
            outcome = self._beyond(mail)
            if outcome is not None:
                on_outcome(mail, outcome)
            else:
                ready[mail.rcpt_to] = mail
        content = group[0].content
        shares = [tuple(ready)] if self._sender.whole else requests(content, list(ready), self._sender.most_recipients)
        for share in shares:
            if share:
                await self._send([ready[recipient] for recipient in share], before_dot, on_outcome)

    def _beyond(self, mail: Mail) -> Outcome | None:
        """What no attempt would change."""
        if self._strikes >= STRIKES:
            self._strikes = STRIKES - 1  # the next one is tried
            words = f"{self._sender.host} failed {STRIKES} times in a row"
            return Outcome(Result.DEFERRED, own_reply("way-failing", words), self._sender.host, rule="way-failing")
        try:
            check(mail)
        except Unsendable as error:
            return Outcome(Result.FAILED, error.reply, self._sender.host, rule=error.rule)
        if mail.requiretls:
            # RFC 8689 §4.2.1: no API promises it
            words = "REQUIRETLS support required, and a provider's API does not offer it"
            return Outcome(Result.FAILED, Reply(550, words, "5.7.30"), self._sender.host, rule="requiretls-not-offered")
        if len(mail.content) > self._sender.most_octets:
            words = f"{self._sender.host} takes at most {self._sender.most_octets} octets, and this mail has {len(mail.content)}"
            return Outcome(Result.FAILED, Reply(552, words, "5.3.4"), self._sender.host, rule="too-large-for-way")
        return None

    async def _send(self, group: Group, before_dot: BeforeDot, on_outcome: OnOutcome) -> None:
        letter = _letter(group)
        request = await self._request(letter)
        if isinstance(request, Outcome):
            for mail in group:
                on_outcome(mail, request)
            return
        allowed = await asyncio.gather(*(_allowed(mail, before_dot) for mail in group))
        if all(allowed):
            await self._exchange(group, letter, request, on_outcome)
            return
        left = [mail for mail, may in zip(group, allowed, strict=True) if may]
        for mail in group:
            if mail not in left:
                on_outcome(mail, _put_back("the delivery was taken from this process before the request"))
        if left:
            await self._send(left, before_dot, on_outcome)  # a request of their own

    async def _request(self, letter: Letter) -> Request | Outcome:
        now, host = datetime.now(UTC), self._sender.host
        try:
            if len(letter.content) < OFF_LOOP_BYTES:
                return self._sender.request(letter, now)
            return await asyncio.to_thread(self._sender.request, letter, now)
        except Refused as error:
            reply = Reply(error.code, error.public, error.enhanced)
            return Outcome(Result.FAILED, reply, host, rule=error.name or "invalid-message")
        except Exception as error:  # unknown is temporary, and about this mail
            log.error("a request to a provider could not be made", host=host, exc_info=error)
            return Outcome(Result.DEFERRED, own_reply("internal-error", "the request could not be made"), host)

    async def _exchange(self, group: Group, letter: Letter, request: Request, on_outcome: OnOutcome) -> None:
        said = Line(time.time(), said=f"{request.method} {request.url} [{len(request.body)} octets]")
        try:
            exchange = await self._client.send(request)
        except NotSent as error:
            outcome = self._outcome("connect-failed", error.public, said)
        except Unheard as error:
            self._strikes += 1
            outcome = self._outcome("reply-lost", error.public, said, dot_sent=True)
        except asyncio.CancelledError:
            for mail in group:
                on_outcome(mail, self._outcome("reply-lost", "this process stops", said, dot_sent=True))
            raise
        except Exception as error:
            log.error("a provider's client failed", host=self._sender.host, exc_info=error)
            outcome = self._outcome("internal-error", "this process failed", said, dot_sent=True)
        else:
            self._answered(group, letter, said, exchange, on_outcome)
            return
        for mail in group:
            on_outcome(mail, outcome)

    def _answered(self, group: Group, letter: Letter, said: Line, exchange: Exchange, on_outcome: OnOutcome) -> None:
        answer = exchange.answer
        body = answer.body[:MAX_HEARD].decode("utf-8", "replace")
        lines = (said, Line(time.time(), heard=f"{answer.status} {body}"))
        try:
            reading = self._sender.read(answer, letter)
        except Exception as error:  # the provider has it, perhaps, and says so in a way that nobody foresaw
            log.error("a provider's answer cannot be read", host=self._sender.host, exc_info=error)
            reading = Reading(Verdict.LATER, f"HTTP {answer.status}: the answer cannot be read", unsure=True)
        self._note(reading, answer.status)
        for mail in group:
            verdict = reading.others.get(mail.rcpt_to.lower(), reading.verdict)
            on_outcome(mail, self._judged(verdict, reading, exchange, lines))

    def _note(self, reading: Reading, status: int) -> None:
        if reading.verdict is Verdict.LATER and status >= 500:
            self._strikes += 1
        elif reading.verdict is not Verdict.DOWN:
            self._strikes = 0
        if reading.verdict is Verdict.LIMITED:
            pause = min(MOST_PAUSE, max(0.2, reading.retry_after or 1.0))
            self._not_before = max(self._not_before, asyncio.get_running_loop().time() + pause)

    def _judged(self, verdict: Verdict, reading: Reading, exchange: Exchange, lines: tuple[Line, ...]) -> Outcome:
        result, code, enhanced, rule = _VERDICTS[verdict]
        if verdict is Verdict.ACCEPTED and not self._reports:
            result = Result.DELIVERED
        unsure = result is Result.DEFERRED and reading.unsure
        if verdict is Verdict.LATER and self._strikes >= STRIKES and not unsure:
            rule = "way-failing"
        if unsure:
            rule = "reply-lost"
        words = f"{reading.words} [{reading.id}]" if reading.id else reading.words
        return Outcome(
            result,
            Reply(code, words, enhanced),
            self._sender.host,
            exchange.ip,
            exchange.source_ip,
            exchange.tls,
            rule,
            lines,
            result in (Result.DELIVERED, Result.RELAYED) or unsure,
            retry_after=max(1.0, reading.retry_after or 1.0) if verdict is Verdict.LIMITED else None,
        )

    def _outcome(self, rule: str, words: str, said: Line, *, dot_sent: bool = False) -> Outcome:
        return Outcome(
            Result.DEFERRED,
            own_reply(rule, words),
            self._sender.host,
            rule=rule,
            conversation=(said,),
            dot_sent=dot_sent,
        )


_VERDICTS: dict[Verdict, tuple[Result, int, str | None, str | None]] = {
    Verdict.ACCEPTED: (Result.RELAYED, 250, "2.0.0", None),
    Verdict.DELIVERED: (Result.DELIVERED, 250, "2.0.0", None),
    Verdict.BOUNCED: (Result.BOUNCED, 550, None, None),
    Verdict.REFUSED: (Result.FAILED, 554, "5.0.0", PROVIDER_REFUSED),
    Verdict.LATER: (Result.DEFERRED, 451, "4.0.0", None),
    Verdict.LIMITED: (Result.DEFERRED, 450, "4.7.0", None),
    Verdict.DOWN: (Result.DEFERRED, 421, "4.3.2", "way-down"),
    Verdict.ACCOUNT: (Result.DEFERRED, 454, "4.7.0", "way-refuses-account"),
}
"""Result, the code and enhanced code that stand for it among SMTP's, and the rule."""


async def _allowed(mail: Mail, before_dot: BeforeDot) -> bool:
    try:
        return bool(await before_dot(mail))
    except Exception:  # as the seam says, an error is a no
        return False


def _email(mail: Mail) -> object:
    return mail.key.email_id if isinstance(mail.key, Leased) else None


def _letter(group: Group) -> Letter:
    """Reference and key are the email's and its recipients' numbers: the same at every attempt."""
    rows = [mail.key for mail in group]
    first = rows[0]
    assert isinstance(first, Leased)
    numbers = ",".join(str(n) for n in sorted(row.n for row in rows if isinstance(row, Leased)))
    key = f"{first.email_id.hex}-{hashlib.sha256(numbers.encode()).hexdigest()[:16]}"
    recipients: Sequence[str] = [mail.rcpt_to for mail in group]
    return Letter(group[0].mail_from, tuple(recipients), group[0].content, first.email_id.hex, key)


def _put_back(words: str) -> Outcome:
    """Nothing of it has left, and it is nobody's fault."""
    return Outcome(Result.DEFERRED, own_reply("lease-lost", words), rule="lease-lost")
