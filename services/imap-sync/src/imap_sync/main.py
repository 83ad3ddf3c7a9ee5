"""The composition root of imap-sync."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chassis.bells import Bells
from chassis.process import Running, run
from chassis.runner import Runner
from imap_sync.runner import Accounts
from imap_sync.settings import Settings
from mailcore.flow.lease import WorkerLease
from mailcore.flow.mirror import ImapDoor
from mailcore.kit.clock import SystemClock
from mailcore.kit.guard import Guard
from mailcore.kit.settings import load
from mailcore.queue.jobs import ACCOUNTS
from mailcore.store.session import Store


@asynccontextmanager
async def start(settings: Settings) -> AsyncIterator[Running]:
    store = await Store.open(
        settings.database.url,
        pool_size=settings.database.pool_size,
        connect_seconds=settings.database.connect_seconds,
        name="postroom imap-sync",
    )
    lease = WorkerLease(store, "imap_sync", lease_seconds=settings.queue.lease_seconds)
    door = ImapDoor(
        Guard("imap", settings.network.allow.imap),
        ports=settings.imap.ports,
        ca_file=settings.imap.ca_file,
        timeout=settings.imap.timeout_seconds,
    )
    accounts = Accounts(
        store,
        lease,
        door,
        settings.keyring(),
        SystemClock(),
        poll_seconds=settings.imap.poll_seconds,
        concurrency=settings.imap.concurrency,
    )
    runner = Runner("accounts", accounts.work, sweep_seconds=settings.queue.sweep_seconds)
    bells = Bells(settings.redis.url, "imap_sync", bells={ACCOUNTS: runner.wake})

    async def drain() -> None:
        runner.drain()
        await accounts.drain()
        await lease.leave()

    try:
        yield Running(
            checks={"database": store.check},
            tasks=[lease.keep(), runner.run(), bells.run()],
            drain=drain,
            drain_seconds=30,
        )
    finally:
        await store.close()


def main() -> None:
    run("imap_sync", load(Settings), start)
