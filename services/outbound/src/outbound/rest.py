"""A site that takes no mail rests: its mail waits without an attempt, and two mails at a time find out whether it is over."""

from __future__ import annotations

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.store import sites
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import TlsPolicy
from mailcore.transport.outcomes import TLS_OFF as TLS_OFF_WORDS

log = logger(__name__)

REST_FIRST, REST_LONGEST = 30.0, 900.0
"""Seconds a site rests after its first failure, doubling to the longest."""
BUSY_FIRST, BUSY_LONGEST, BUSY_GROWTH = 2.0, 60.0, 1.25
"""The same for one that is there and says 421 (RFC 5321 §3.8), each rest a quarter longer than the one before: whenever it is over,
that is found out within a quarter of the time it lasted."""
PROBES = 2
"""Mails that find out together, of all processes. Where no connection comes about one pays for both."""
TLS_OFF = "tls-off"
"""Rule of a mail that a host refused for want of TLS where the way is to use none."""
TURNED_AWAY = frozenset(("closing", "greeting-refused", "ehlo-refused"))
"""Rules under which a 421 ended the session."""


def is_down(outcome: Outcome, tls: TlsPolicy) -> bool:
    """No session came as far as this mail's MAIL, or TLS is off for a host that wants it: it is about the site, not about the mail.
    `tls`: the way's own policy."""
    if outcome.rule == TLS_OFF:
        return True
    always = tls in (TlsPolicy.REQUIRED, TlsPolicy.IMPLICIT)
    own_demand = outcome.rule in ("tls-failed", "tls-not-offered") and not always
    # what the recipient's side asks for is not the site's: other domains have their mail there
    own_demand = own_demand or outcome.rule in ("dane-failed", "mta-sts-failed")
    return (
        outcome.result is Result.DEFERRED
        and outcome.rule is not None
        and not own_demand
        and not outcome.dot_sent
        and not any(line.said and line.said.startswith("MAIL ") for line in outcome.conversation)
    )


def is_turned_away(outcome: Outcome) -> bool:
    """A 421 before anything was said about the recipient: it is about the connection (RFC 5321 §3.8, §4.2.1), and the mail may go
    by another one. Behind RCPT it may be the recipient's limit, behind the final dot the content's: those count as attempts."""
    return (
        outcome.result is Result.DEFERRED
        and outcome.rule in TURNED_AWAY
        and outcome.reply is not None
        and outcome.reply.code == 421
        and not outcome.dot_sent
        and all(heard.startswith("421") for heard in _heard_of_mail(outcome))
    )


def _heard_of_mail(outcome: Outcome) -> list[str]:
    lines = outcome.conversation
    began = next((n for n, line in enumerate(lines) if line.said and line.said.startswith("MAIL ")), len(lines))
    return [line.heard for line in lines[began:] if line.heard is not None]


def is_cut_off(outcome: Outcome) -> bool:
    """The connection ended behind MAIL and before a word about it. Nobody said what that is about: the mail pays with an attempt,
    and ten in a row, where the site was not given up before, make it rest as a 421 does (ADR 0032)."""
    return (
        outcome.result is Result.DEFERRED
        and outcome.rule == "connection-lost"
        and not outcome.dot_sent
        and any(line.said and line.said.startswith("MAIL ") for line in outcome.conversation)
        and not _heard_of_mail(outcome)
    )


def of_site(down: Outcome) -> str:
    """What it said, for all who send there: behind MAIL it may have named the sender of that one, and its words stay with it."""
    reply = down.reply
    if reply is not None and any(line.said and line.said.startswith("MAIL ") for line in down.conversation):
        words = TLS_OFF_WORDS if down.rule == TLS_OFF else "the peer closes its connections"
        reply = Reply(reply.code, words, reply.enhanced)
    return str(reply)


class Rests:
    """Begun and ended in the database, for all processes. `busy_first`, `busy_longest`: of a site that says 421, in seconds."""

    def __init__(self, store: Store, *, busy_first: float = BUSY_FIRST, busy_longest: float = BUSY_LONGEST) -> None:
        self._store = store
        self._busy = (busy_first, busy_longest, BUSY_GROWTH)

    async def begin(self, site: Site, down: Outcome) -> None:
        """Written before anything else is tried there: so one mail pays for it."""
        reply = of_site(down)
        busy = is_cut_off(down) or (down.reply is not None and down.reply.code == 421)
        first, longest, growth = self._busy if busy else (REST_FIRST, REST_LONGEST, 2.0)
        try:
            async with self._store.worker() as db:
                seconds = await sites.suspend(db, site.id, reply, first=first, longest=longest, growth=growth)
        except Unavailable as error:
            log.warning("the site's failure could not be written", site=site.key, error=error.public)
        else:
            log.warning("a site takes no mail now", site=site.key, reply=reply[:200], rests_seconds=round(seconds))

    async def end(self, site: Site) -> None:
        """It takes mail again."""
        try:
            async with self._store.worker() as db:
                await sites.clear(db, site.id)
        except Unavailable as error:
            log.warning("the site's failures could not be cleared", site=site.key, error=error.public)
