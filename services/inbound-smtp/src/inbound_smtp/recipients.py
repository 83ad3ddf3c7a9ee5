"""Whose mail it is: what the database says of a recipient's domain and, where that decides, of the address itself; remembered for a
few seconds.

Addresses that are asked for at the same time, by whatever connections, are asked for in one statement.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple
from uuid import UUID

from mailcore.kit.errors import MailError
from mailcore.smtp.address import Address, folded
from mailcore.store import addresses, organizations
from mailcore.store.addresses import Receiving
from mailcore.store.session import Store

REMEMBERED_SECONDS = 4.0
"""A domain or an address that is added or removed counts within five seconds."""
MAX_REMEMBERED = 20_000
GATHER_SECONDS = 0.002

Key = tuple[UUID, str]
"""Domain, local part in lower case."""


class Known(NamedTuple):
    """Nothing else would be found by asking now."""

    receiving: Receiving | None
    taken: bool
    """There is such an address, or its domain takes mail to all."""


class Recipients:
    """One a process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._domains: dict[str, tuple[float, Receiving | None]] = {}
        self._addresses: dict[Key, tuple[float, str | None]] = {}
        self._wanted: dict[Key, asyncio.Future[str | None]] = {}
        self._gathering: asyncio.Task[None] | None = None
        self._operator: UUID | None = None

    def known(self, address: Address) -> Known | None:
        """What `find` would find; None: it would have to ask."""
        now = time.monotonic()
        domain = self._domains.get(address.domain)
        if domain is None or domain[0] <= now:
            return None
        receiving = domain[1]
        if receiving is None:
            return Known(None, False)
        if not receiving.listed:
            return Known(receiving, True)
        kinds = []
        local = folded(address).rpartition("@")[0]
        for key in _keys(receiving, local):
            found = self._addresses.get(key)
            if found is None or found[0] <= now:
                return None
            kinds.append(found[1])
        return Known(receiving, _taken(receiving, local, kinds))

    async def find(self, address: Address) -> Known:
        """Raises Unavailable."""
        domain = self._domains.get(address.domain)
        if domain is None or domain[0] <= time.monotonic():
            asked = time.monotonic()
            found = await addresses.find_receiving(self._store, address.domain)
            domain = (asked + REMEMBERED_SECONDS, found)
            if len(self._domains) >= MAX_REMEMBERED:
                self._domains.clear()  # names that strangers made up: nothing worth keeping in order
            self._domains[address.domain] = domain
        receiving = domain[1]
        if receiving is None or not receiving.listed:
            return Known(receiving, receiving is not None)
        local = folded(address).rpartition("@")[0]
        asked_for = [self._kind(key) for key in _keys(receiving, local)]
        return Known(receiving, _taken(receiving, local, [await asyncio.shield(kind) for kind in asked_for]))

    async def operator(self) -> UUID | None:
        """The organization of whoever runs this server; None: there is none yet. It does not change. Raises Unavailable."""
        if self._operator is None:
            async with self._store.worker() as db:
                self._operator = await organizations.first(db)
        return self._operator

    async def reports_of(self, address: Address) -> UUID | None:
        """The organization of a sending domain whose return path's name this is, of an address for reports there. Raises
        Unavailable."""
        if address.local.lower() not in addresses.REPORTS:
            return None
        async with self._store.worker() as db:
            return await addresses.reports_of(db, address.domain)

    def _kind(self, key: Key) -> asyncio.Future[str | None]:
        loop = asyncio.get_running_loop()
        future = self._wanted.get(key)
        if future is None:
            future = loop.create_future()
            known = self._addresses.get(key)
            if known is not None and known[0] > time.monotonic():
                future.set_result(known[1])
                return future
            self._wanted[key] = future
        if self._gathering is None:
            self._gathering = loop.create_task(self._gather())
        return future

    async def _gather(self) -> None:
        try:
            while self._wanted:
                await asyncio.sleep(GATHER_SECONDS)
                wanted, self._wanted = self._wanted, {}
                await self._ask(wanted)
        finally:
            self._gathering = None

    async def _ask(self, wanted: dict[Key, asyncio.Future[str | None]]) -> None:
        until = time.monotonic() + REMEMBERED_SECONDS
        try:
            found = await addresses.lookup(self._store, list(wanted))
        except Exception as error:
            for future in wanted.values():
                future.set_exception(error if isinstance(error, MailError) else RuntimeError(repr(error)))
                future.exception()  # read here: who asked may have gone
            return
        if len(self._addresses) + len(wanted) > MAX_REMEMBERED:
            self._addresses.clear()
        for key, future in wanted.items():
            self._addresses[key] = (until, found.get(key))
            future.set_result(found.get(key))


def _keys(receiving: Receiving, local: str) -> list[Key]:
    """What is asked for: the address as it stands and, where it has a tag that may be one, without it."""
    base = addresses.base_of(local) if receiving.subaddressing else local
    return [(receiving.domain_id, each) for each in dict.fromkeys((local, base))]


def _taken(receiving: Receiving, local: str, kinds: list[str | None]) -> bool:
    """`kinds`: of `_keys`. The address as it stands decides before the one without its tag."""
    base = addresses.base_of(local) if receiving.subaddressing else local
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is None:
        return receiving.catch_all != "reject" or base in addresses.ALWAYS | addresses.REPORTS
    return kind != "reject" or base in addresses.ALWAYS
