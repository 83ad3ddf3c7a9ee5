"""Outbound as a process, killed around a request to a provider: before it left nothing is doubled, after it nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from fakes.provider_api import ProviderApi
from fakes.provider_posts import SETTINGS
from integration.outbound.harness import KEY, Tenant, until
from mailcore.flow import ways as kinds
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.store import sites, ways


@pytest.mark.parametrize(("failpoint", "copies"), [("f5", 1), ("f11", 2)])
async def test_a_kill_around_a_request(
    failpoint: str, copies: int, tenant: Tenant, keyring: Keyring, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """f5: claimed, nothing sent. f11: the provider has it, and that is not stored."""
    async with ProviderApi("resend") as api:
        way_id = uuid7()
        async with tenant.store.worker() as db:
            site = await sites.ensure(db, f"resend:{way_id}", 5)
            shown, secrets = kinds.parted(kinds.check("resend", SETTINGS["resend"]))
            sealed = kinds.seal(keyring, secrets)
            of = {"way_id": way_id, "org_id": tenant.org_id, "name": "w", "kind": "resend", "settings": shown}
            await ways.add(db, **of, secrets_sealed=sealed, reports=True, site_id=site.id)
            nobody = {"for_org": None, "domain_id": None, "tag_name": None, "tag_value": None}
            await ways.add_route(db, route_id=uuid7(), org_id=tenant.org_id, ways=[way_id], **nobody)
        environment = {
            "PATH": os.environ["PATH"],
            "POSTROOM_ENCRYPTION_KEY": KEY,
            "POSTROOM_DATABASE__URL": database_url,
            "POSTROOM_REDIS__URL": redis_url,
            "POSTROOM_BLOB__URL": (tmp_path / "blobs").as_uri(),
            "POSTROOM_OPS__PORT": "0",
            "POSTROOM_OUTBOUND__ROUTE": "catch",
            "POSTROOM_PROVIDERS__RESEND__BASE_URL": api.url,
            "POSTROOM_QUEUE__SWEEP_SECONDS": "0.3",
            "POSTROOM_QUEUE__LEASE_SECONDS": "60",
        }
        email = await tenant.send("ada@example.com")

        async def start(**changes: str) -> asyncio.subprocess.Process:
            arguments = (sys.executable, "-m", "outbound")
            given = environment | changes
            return await asyncio.create_subprocess_exec(
                *arguments, env=given, cwd=tmp_path, stdout=asyncio.subprocess.DEVNULL
            )

        process = await start(POSTROOM_FAILPOINT=failpoint)
        assert await asyncio.wait_for(process.wait(), 60) == 137
        assert len(api.accepted) == copies - 1
        # a lease so short that it ended by itself would end for who is only slow, too
        await tenant.admin.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
        process = await start()
        try:
            await until(lambda: tenant._has_state(email, 0, "relayed"), "it is relayed", 60)
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 60) == 0
        assert len(api.accepted) == copies
        assert (await tenant.delivery(email))["possible_duplicate"] is (copies == 2)
        assert len({taken.key for taken in api.accepted}) == 1, "Resend tells the repeat by its key"
        assert [row["outcome"] for row in await tenant.attempts(email)] == ["lost", "relayed"]
