"""A site that takes no mail rests: its mail waits without an attempt, and one mail at a time finds out whether it is over."""

from __future__ import annotations

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store import sites
from mailcore.store.session import Store
from mailcore.store.sites import Site
from mailcore.transport import TlsPolicy

log = logger(__name__)

REST_FIRST, REST_LONGEST = 30.0, 900.0
"""Seconds a site rests after its first failure, doubling to the longest."""
BUSY_FIRST, BUSY_LONGEST = 2.0, 60.0
"""The same for one that is there and says 421 (RFC 5321 §3.8): it is asked again soon, by one mail."""


def is_down(outcome: Outcome, tls: TlsPolicy) -> bool:
    """No session came as far as this mail's MAIL: it is about the site, not about the mail. `tls`: the way's own policy."""
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


async def rest(store: Store, site: Site, down: Outcome) -> None:
    """Written before anything else is tried there: so one mail pays for it."""
    reply = str(down.reply)
    busy = down.reply is not None and down.reply.code == 421
    first, longest = (BUSY_FIRST, BUSY_LONGEST) if busy else (REST_FIRST, REST_LONGEST)
    try:
        async with store.worker() as db:
            seconds = await sites.suspend(db, site.id, reply, first=first, longest=longest)
    except Unavailable as error:
        log.warning("the site's failure could not be written", site=site.key, error=error.public)
    else:
        log.warning("a site takes no mail now", site=site.key, reply=reply[:200], rests_seconds=round(seconds))


async def rested(store: Store, site: Site) -> None:
    """It takes mail again."""
    try:
        async with store.worker() as db:
            await sites.clear(db, site.id)
    except Unavailable as error:
        log.warning("the site's failures could not be cleared", site=site.key, error=error.public)
