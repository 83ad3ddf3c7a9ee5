"""How much each API key sends: counted beside the requests, so that nobody waits for it, and written with its last use (flow.keys).

What waits in memory when a process dies is lost: these counts tell a key that sends ten times what it used to (flow.reputation),
not what anybody pays for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from mailcore.kit.errors import Unavailable
from mailcore.kit.log import logger
from mailcore.store import reputation
from mailcore.store.reputation import SAMPLE, Sent
from mailcore.store.session import Store

log = logger(__name__)

MOST_KEYS = 50_000
"""That wait to be written; those beyond are not counted."""


@dataclass(slots=True)
class _Waiting:
    org_id: UUID
    recipients: int = 0
    sample: list[UUID | str] = field(default_factory=list)


class KeyCounts:
    """One a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[UUID, _Waiting] = {}

    def add(self, org_id: UUID, key_id: UUID | None, recipients: int, ids: Sequence[UUID | str]) -> None:
        """After the commit. None: no key sent it, but a person."""
        if key_id is None or not ids:
            return
        waiting = self._waiting.get(key_id)
        if waiting is None:
            if len(self._waiting) >= MOST_KEYS:
                return
            waiting = self._waiting[key_id] = _Waiting(org_id)
        waiting.recipients += recipients
        if len(waiting.sample) < SAMPLE:
            waiting.sample.extend(ids[: SAMPLE - len(waiting.sample)])

    async def write(self) -> None:
        """What waits. Never raises: what cannot be written is left out."""
        waiting, self._waiting = self._waiting, {}
        orgs: dict[UUID, list[Sent]] = {}
        for key_id, each in waiting.items():
            orgs.setdefault(each.org_id, []).append(Sent(each.org_id, key_id, each.recipients, each.sample))
        for org_id, sent in orgs.items():
            try:
                async with self._store.tenant(org_id) as db:
                    await reputation.note_sent(db, sent)
            except Unavailable as error:
                log.warning("what keys sent is not written", error=error.public)
            except Exception:  # of no importance to anybody's mail
                log.exception("what keys sent is not written")
