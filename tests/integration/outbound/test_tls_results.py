"""Results of TLS: seldom to the database, and nothing of them is left in a process that drains."""

from __future__ import annotations

import asyncio

import asyncpg

from integration.outbound.harness import until
from mailcore.flow.mta_sts import NOTHING
from mailcore.smtp.outcome import Outcome, Result, TlsSession
from mailcore.smtp.reply import Reply
from mailcore.store.session import Store
from outbound import tls_results
from outbound.tls_chores import FLUSH_SECONDS, TlsChores
from outbound.tls_results import Policies, TlsResults

STORED = "SELECT coalesce(sum(sessions), 0) FROM tls_results"


def _counting() -> TlsResults:
    results = TlsResults()
    results.watch("a.test", Policies(NOTHING, {}))
    return results


def _note(results: TlsResults, mx_ip: str = "192.0.2.1") -> None:
    session = TlsSession("no-policy-found", "mx.a.test", mx_ip, None, "certificate-expired")
    results.note("b@a.test", Outcome(Result.DELIVERED, Reply(250, "ok"), sessions=(session,)))


async def test_they_are_written_every_ten_seconds_and_earlier_only_when_there_are_many(
    store: Store, admin: asyncpg.Connection
) -> None:
    results, times = _counting(), iter((100.0, 101.0, 109.0, 100.0 + FLUSH_SECONDS, 112.0))
    chores = TlsChores(store, results, None, clock=lambda: next(times))
    for _ in range(2):
        _note(results)
        await chores.flush()
        assert await admin.fetchval(STORED) == 0
    await chores.flush()
    assert await admin.fetchval(STORED) == 2
    for n in range(tls_results.MOST_COUNTED // 2):
        _note(results, f"192.0.2.{n}")
    await chores.flush()
    assert await admin.fetchval(STORED) == 2 + tls_results.MOST_COUNTED // 2


async def test_a_process_that_drains_waits_for_what_is_being_written(
    store: Store, database_url: str, admin: asyncpg.Connection
) -> None:
    results = _counting()
    async with admin.transaction():
        await admin.execute("LOCK TABLE tls_results IN ACCESS EXCLUSIVE MODE")
        _note(results)
        writing = asyncio.create_task(results.flush(store))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tls_results'::regclass"
        await until(lambda: admin.fetchval(waiting), "it is written")
        drain = asyncio.create_task(results.flush(store))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not drain.done()
    await drain
    assert await admin.fetchval(STORED) == 1
    await writing
