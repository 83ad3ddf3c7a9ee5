"""How much mail a process holds: bytes are taken before content is fetched, and given back with the mail's last outcome.

1. `Memory`   two shares, so that small mails never wait behind large ones and a slow peer that takes them
2. `Share`    asks wait in their order; one that is larger than the share goes when nothing else is held
3. `Holding`  what each email took, until the last of its deliveries is done

Whoever waits here holds nothing of the same share: what was taken ends by itself, so that a wait always ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from mailcore.store.deliveries import Key

ROW_BYTES = 2048
"""Of a mail, beside its content: header, signatures, objects."""
GROWTH = 1.4
"""Of content when it is encoded: base64 with its line ends (RFC 2045 §6.8)."""
LIGHT_BYTES = 16 * 1024
"""Content up to this much comes with the row, without a question of its own."""


def weight(octets: int) -> int:
    """What is taken for an email with that much content."""
    return ROW_BYTES + int(octets * GROWTH)


class Share:
    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.peak = 0
        """The most that was held at a time."""
        self._waiting: deque[tuple[int, object, asyncio.Future[bool]]] = deque()

    async def take(self, octets: int, owner: object) -> bool:
        """Waits until there is room. False: refused meanwhile, and nothing is taken."""
        if not self._waiting and self._fits(octets):
            self._add(octets)
            return True
        asked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((octets, owner, asked))
        try:
            return await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and asked.result():
                self.give(octets)
            else:
                self._admit()  # whoever stood behind this one
            raise

    def give(self, octets: int) -> None:
        self.held -= octets
        if self._waiting:
            self._admit()

    def refuse(self, owner: object = None) -> None:
        """Those of the owner that wait; all when None."""
        for _, whose, asked in self._waiting:
            if (owner is None or whose is owner) and not asked.done():
                asked.set_result(False)
        self._admit()

    def _fits(self, octets: int) -> bool:
        return not self.held or self.held + octets <= self.most

    def _add(self, octets: int) -> None:
        self.held += octets
        self.peak = max(self.peak, self.held)

    def _admit(self) -> None:
        while self._waiting:
            octets, _, asked = self._waiting[0]
            if not asked.done():
                if not self._fits(octets):
                    return
                self._add(octets)
                asked.set_result(True)
            self._waiting.popleft()


class Memory:
    """Of one process. What threads need while they compose comes on top: a few times the mails they have in hand."""

    def __init__(self, octets: int) -> None:
        self.light = Share(octets // 2)
        """For mails with little content, by far the most of them."""
        self.heavy = Share(octets - octets // 2)

    @property
    def rows(self) -> int:
        """That may be asked for at a time, none of them known yet."""
        return max(1, self.light.most // weight(LIGHT_BYTES))

    def refuse(self, owner: object = None) -> None:
        self.light.refuse(owner)
        self.heavy.refuse(owner)


@dataclass(slots=True)
class _Held:
    """What one email took."""

    share: Share
    octets: int
    rows: int
    """Deliveries that still need its content."""


class Holding:
    """What one holder took, by delivery; given back with the last delivery of each email."""

    def __init__(self) -> None:
        self._held: dict[Key, _Held] = {}

    def add(self, share: Share, octets: int, keys: Collection[Key]) -> None:
        """These deliveries of one email, for which so many bytes were taken."""
        held = _Held(share, octets, len(keys))
        for key in keys:
            self.done(key)  # a lease that was lost and claimed anew
            self._held[key] = held

    def done(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.rows -= 1
            if not held.rows:
                held.share.give(held.octets)

    def done_all(self) -> None:
        for key in list(self._held):
            self.done(key)
