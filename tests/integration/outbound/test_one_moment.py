"""An answer about deliveries is of one moment: no state without the attempt that it came from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fakes.smtp_server import SmtpServer
from integration.outbound.harness import Tenant
from mailcore.store import explain
from mailcore.store.session import Store

Run = Callable[..., AbstractAsyncContextManager[Any]]


async def test_what_ends_while_it_is_read_is_told_whole_or_not_at_all(
    tenant: Tenant, store: Store, sink: SmtpServer, outbound: Run
) -> None:
    id_ = await tenant.send("you@example.com")

    class Slow:
        """A connection on which the delivery ends behind the reading of its attempts."""

        async def fetch(self, query: str, *of: Any) -> Any:
            rows = await db.fetch(query, *of)
            if "FROM attempts" in query:
                async with outbound(sink):
                    await tenant.state(id_, "delivered")
            return rows

    async with store.tenant(tenant.org_id, snapshot=True) as db:
        (told,) = await explain.deliveries(Slow(), id_)  # type: ignore[arg-type]
    assert (told["state"], told["attempts"]) == ("queued", [])
    async with store.tenant(tenant.org_id, snapshot=True) as db:
        (told,) = await explain.deliveries(db, id_)
    assert (told["state"], [one["outcome"] for one in told["attempts"]]) == ("delivered", ["delivered"])
