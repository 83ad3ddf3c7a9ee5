"""Claims accounts that are due, mirrors each in a task of its own, and writes down how it went."""

from __future__ import annotations

import asyncio
from uuid import UUID

from mailcore.flow.lease import WorkerLease
from mailcore.flow.mirror import ImapDoor, LeaseLost, mirror_inbox
from mailcore.kit.clock import Clock
from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.kit.metrics import SYNC_LAG
from mailcore.kit.retry import delay
from mailcore.kit.seal import Keyring
from mailcore.store import accounts, workers
from mailcore.store.accounts import Account
from mailcore.store.session import Store

log = logger(__name__)

RETRY_SECONDS = (60.0, 300.0, 900.0, 3600.0)
"""After a failure; the last one goes on for ever: an account is given up only by its owner."""


class Accounts:
    def __init__(
        self,
        store: Store,
        lease: WorkerLease,
        door: ImapDoor,
        keyring: Keyring,
        clock: Clock,
        *,
        poll_seconds: float,
        concurrency: int,
    ) -> None:
        self._store = store
        self._lease = lease
        self._door = door
        self._keyring = keyring
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._concurrency = concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._held: set[UUID] = set()
        """Accounts in hand."""

    async def work(self, keys: frozenset[str] | None) -> bool:
        """One round: take back what dead workers held (at a sweep), claim, start. True when there may be more."""
        if not self._lease.alive:
            await self._lease.enrol()
        if keys is None:
            await self._sweep()
        free = self._concurrency - len(self._running)
        if free <= 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return True
        async with self._store.worker() as db:
            claimed = await accounts.claim(db, self._lease.id, free, self._poll_seconds)
        self._held.update(account.id for account in claimed)
        for account in claimed:
            task = asyncio.create_task(self._mirror(account, self._lease.id))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return bool(claimed)

    async def drain(self) -> None:
        """Waits for the accounts in hand."""
        while self._running:
            await asyncio.wait(self._running)

    async def _sweep(self) -> None:
        async with self._store.worker() as db:
            dead = await workers.bury(db, self._lease.service, self._lease.lease_seconds)
            dead += await workers.ownerless(db, "accounts")
            if dead:
                log.warning(
                    "took back the accounts of dead workers", workers=dead, accounts=await accounts.take_back(db, dead)
                )
            strays = await accounts.strays(db, self._lease.id, self._held, older_than=self._lease.lease_seconds)
            if strays:
                log.warning("accounts leased to us that we do not have in hand are due again", accounts=strays)
            SYNC_LAG.set(await accounts.lag_seconds(db))

    async def _mirror(self, account: Account, worker: int) -> None:
        try:
            await self._bring_in_step(account, worker)
        finally:
            self._held.discard(account.id)

    async def _bring_in_step(self, account: Account, worker: int) -> None:
        error: str | None = None
        try:
            password = self._keyring.open(account.password_sealed, "imap").decode()
            found = await mirror_inbox(
                self._store,
                self._door,
                account,
                worker,
                password,
                clock=self._clock,
                alive=lambda: self._lease.alive and self._lease.id == worker,
            )
            if found:
                log.info("mirrored", account=str(account.id), messages=found)
        except LeaseLost as lost:
            log.warning("account is no longer ours", account=str(account.id), reason=lost.public)
            return
        except MailError as trouble:
            error = trouble.public
            log.warning("account not in step", account=str(account.id), error=error)
        except Exception:
            error = "Something unexpected went wrong; it is tried again."
            log.exception("mirror failed", account=str(account.id))
        await self._settle(account, worker, error)

    async def _settle(self, account: Account, worker: int, error: str | None) -> None:
        retry = None
        if error is not None:
            retry = delay(RETRY_SECONDS, min(account.failures + 1, len(RETRY_SECONDS)))
        try:
            async with self._store.worker() as db:
                await accounts.settle(db, account.id, worker, error=error, retry_seconds=retry)
        except MailError as trouble:
            # no longer in hand, so that the sweep finds it once the lease is old
            log.error("could not settle an account", account=str(account.id), error=trouble.public)
