"""Searches take connections for seconds: those of one organization leave the others theirs."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx
import pytest

from mailcore.store import counts, logs, sent

from .harness import email


async def test_searches_of_one_organization_leave_connections_for_mail(
    api: httpx.AsyncClient, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six that took their five seconds, of whomever, and no mail of anybody was accepted meanwhile."""
    # none is given up here, however long the machine stands still
    monkeypatch.setattr(sent, "SEARCH_SECONDS", 60)
    monkeypatch.setattr(counts, "READ_SECONDS", 60)
    monkeypatch.setattr(logs, "_SEARCH", logs._SEARCH.replace(f"'{logs.SEARCH_SECONDS}s'", "'60s'"))
    assert (await api.post("/emails", json=email())).status_code == 200  # what is remembered, is
    paths = ["/logs?q=needle", "/emails?subject=needle", "/emails/metrics", "/metrics"]
    async with admin.transaction():
        # as long as a look at millions of rows
        await admin.execute("LOCK TABLE logs, deliveries, event_counts IN ACCESS EXCLUSIVE MODE")
        searches = [asyncio.create_task(api.get(path)) for path in paths * 6]
        await asyncio.sleep(0.2)
        listed = await api.get("/domains")
        assert listed.status_code == 200
        answers = [search.result() for search in searches if search.done()]
        assert {answer.status_code for answer in answers} <= {429}  # none of them was waited for
        assert len(answers) < len(searches)
        assert {answer.json()["name"] for answer in answers} <= {"rate_limit_exceeded"}
    assert {answer.status_code for answer in await asyncio.gather(*searches)} <= {200, 429}
