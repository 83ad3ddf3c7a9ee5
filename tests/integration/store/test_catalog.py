"""The wall between tenants, read from the catalog: a new table that forgets its policy fails here."""

from __future__ import annotations

import asyncpg
import pytest

from mailcore.kit.ids import uuid7
from mailcore.store.session import Store

ROLES = ("postroom_app", "postroom_door", "postroom_worker", "postroom_people", "postroom_lookup", "postroom_search")
LOOKUPS = {
    "lookup_api_key",
    "lookup_receiving_domain",
    "lookup_receiving",
    "lookup_addresses",
    "lookup_login",
    "lookup_session",
    "lookup_endpoints",
    "lookup_domain_taken",
    "lookup_usage",
    "lookup_sandbox_domain",
    "lookup_routes_out",
    "lookup_emails_to",
    "lookup_mta_sts",
    "lookup_tls_host",
    "lookup_relay",
}
SEARCHES = {"search_messages"}
NO_TENANT = {
    "alembic_version",
    "installation",
    "event_counts_mark",
    "sites",
    "recipient_domains",
    "workers",
    "site_shares",
    "queue_orders",
    *("pools", "pool_serves", "sources", "source_bars", "source_hosts", "warmups", "warmup_days", "warmup_decisions"),
    "mta_sts_policies",
    "tls_results",
    "tls_reports",
    "forgotten",
    "relayed_mark",
    "health_findings",
    "bulk_senders",
    "greylist",
    "blob_deletes",
}
OWN_POLICY = {"organizations", "users"}


async def _tables(admin: asyncpg.Connection) -> list[asyncpg.Record]:
    return await admin.fetch(
        "SELECT c.oid, c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced, "
        "EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id') AS has_org "
        "FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    )


async def test_every_table_of_a_tenant_is_behind_its_policy(admin: asyncpg.Connection) -> None:
    for table in await _tables(admin):
        if table["name"] in NO_TENANT:
            assert not table["has_org"], f"{table['name']} has org_id: give it a policy"
            continue
        assert table["enabled"] and table["forced"], f"{table['name']}: ENABLE and FORCE ROW LEVEL SECURITY"
        policies = await admin.fetch(
            "SELECT * FROM pg_policies WHERE tablename = $1 AND policyname = 'tenant'", table["name"]
        )
        assert len(policies) == 1, f"{table['name']} lacks its tenant policy"
        assert policies[0]["roles"] == ["postroom_app"]
        if table["name"] not in OWN_POLICY:
            assert policies[0]["qual"] == "(org_id = ( SELECT current_org() AS current_org))"
            assert policies[0]["with_check"] == policies[0]["qual"]


async def test_only_known_policies_see_past_the_tenant(admin: asyncpg.Connection) -> None:
    names = {row["policyname"] for row in await admin.fetch("SELECT DISTINCT policyname FROM pg_policies")}
    assert names == {"tenant", "door", "door_read", "door_again", "worker", "people", "lookup", "search"}
    door_reads = await admin.fetch(
        "SELECT tablename FROM pg_policies WHERE 'postroom_door' = ANY (roles) AND cmd <> 'INSERT' ORDER BY 1"
    )
    assert {row["tablename"] for row in door_reads} == {
        *("idempotency_keys", "arrival_keys", "lanes", "suppressions"),
        "unsubscribes",
    }


async def test_partitions_can_only_be_reached_through_their_table(admin: asyncpg.Connection) -> None:
    granted = await admin.fetch(
        "SELECT c.relname, g.grantee FROM pg_class c JOIN information_schema.role_table_grants g ON g.table_name = c.relname "
        "WHERE c.relispartition AND g.grantee = ANY ($1::text[])",
        [*ROLES, "postroom", "PUBLIC"],
    )
    assert granted == []


async def test_the_roles_own_and_bypass_nothing(admin: asyncpg.Connection) -> None:
    for role in await admin.fetch("SELECT * FROM pg_roles WHERE rolname = ANY ($1)", [*ROLES, "postroom"]):
        assert not role["rolsuper"] and not role["rolbypassrls"] and not role["rolcreaterole"], role["rolname"]
    owned = await admin.fetch(
        "SELECT relname FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = ANY ($1)",
        [*ROLES, "postroom"],
    )
    assert owned == []
    login = await admin.fetchrow("SELECT rolinherit FROM pg_roles WHERE rolname = 'postroom'")
    assert login is not None and not login["rolinherit"]


async def test_the_list_of_lookups_is_short_and_fixed(admin: asyncpg.Connection) -> None:
    rows = await admin.fetch(
        "SELECT p.proname, p.prosecdef, p.proconfig, r.rolname AS owner FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner "
        "WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef"
    )
    assert {row["proname"] for row in rows} == LOOKUPS | SEARCHES | {"make_partitions", "drop_logs", "drop_month"}
    for row in rows:
        assert "search_path=public, pg_temp" in row["proconfig"], row["proname"]
        assert (row["owner"] == "postroom_lookup") == (row["proname"] in LOOKUPS)
        assert (row["owner"] == "postroom_search") == (row["proname"] in SEARCHES)


async def test_outside_a_block_the_login_reads_nothing(database_url: str, admin: asyncpg.Connection) -> None:
    login = await asyncpg.connect(database_url)
    try:
        for table in await _tables(admin):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.fetch(f'SELECT * FROM "{table["name"]}" LIMIT 1')
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await login.execute("SET ROLE postroom_lookup")
    finally:
        await login.close()


async def test_without_an_organization_there_are_no_rows(
    store: Store, database_url: str, admin: asyncpg.Connection, domain: object
) -> None:
    login = await asyncpg.connect(database_url)
    try:
        await login.execute("SET ROLE postroom_app")
        assert await login.fetchval("SELECT count(*) FROM domains") == 0
        # a setting of an earlier transaction leaves an empty string behind, which must not raise and not match
        async with login.transaction():
            await login.execute(f"SET LOCAL app.org_id = '{uuid7()}'")
        assert await login.fetchval("SELECT count(*) FROM domains") == 0
        assert await admin.fetchval("SELECT count(*) FROM domains") == 1
    finally:
        await login.close()


async def test_a_tenant_neither_sees_nor_writes_anothers_rows(store: Store, make_org, make_domain) -> None:
    ours, theirs = await make_org(), await make_org()
    await make_domain(theirs, "theirs.test")
    async with store.tenant(ours) as db:
        assert await db.fetch("SELECT * FROM domains") == []
        assert await db.fetch("SELECT * FROM organizations WHERE id = $1", theirs) == []
        assert await db.execute("UPDATE domains SET name = 'taken.test'") == "UPDATE 0"
        assert await db.execute("DELETE FROM domains") == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.tenant(ours) as db:
            await db.execute("INSERT INTO mailboxes (id, org_id, address) VALUES ($1, $2, 'a@b.test')", uuid7(), theirs)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.door() as db:
            await db.fetch("SELECT * FROM emails")


async def test_partitions_of_the_next_months_are_there_and_made_once(store: Store, admin: asyncpg.Connection) -> None:
    async with store.worker() as db:
        assert await db.fetch("SELECT * FROM make_partitions(2)") == []
        made = await db.fetch("SELECT * FROM make_partitions(3)")
    parents = await admin.fetchval(
        "SELECT count(*) FROM pg_class WHERE relkind = 'p' AND relnamespace = 'public'::regnamespace"
    )
    assert len(made) == parents
    # a delivery ends on the page where it began, whichever month that is of
    options = "SELECT c.reloptions FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'deliveries'::regclass"
    assert {tuple(row["reloptions"]) for row in await admin.fetch(options)} == {("fillfactor=60",)}
