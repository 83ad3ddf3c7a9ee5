"""What doors and workers may do to tenants' tables, in full: they see every tenant, so that each right has to be needed."""

from __future__ import annotations

import asyncpg

DOOR = {
    "INSERT": "arrival_keys arrival_queue arrivals deliveries emails events greylist idempotency_keys lanes logs queue "
    "recipient_domains reports_owed sites usage_deltas webhook_deliveries webhook_queue",
    "SELECT": "arrival_keys greylist idempotency_keys installation lanes recipient_domains sites suppressions "
    "unsubscribes",
    "UPDATE": "arrival_keys greylist idempotency_keys",
}
WORKER = {
    "DELETE": "arrival_keys arrival_queue auth_events blob_deletes bulk_senders dkim_keys dmarc_reports domains event_counts "
    "greylist health_findings holds idempotency_keys key_counts messages mta_sts_policies pool_serves pools "
    "provider_events queue received_tls_reports reports_owed routes_out sessions site_shares source_hosts "
    "sources tls_reports tls_results trainings usage_deltas warmup_days warmup_decisions warmups ways "
    "webhook_queue workers",
    "INSERT": "alarms arrival_queue attempts blob_deletes bulk_senders deliveries dkim_keys emails engagements event_counts "
    "events folders health_findings holds key_counts lanes mailboxes message_words messages mta_sts_policies pool_serves "
    "pools provider_events queue queue_orders recipient_domains reports_owed routes_out site_shares sites "
    "source_hosts sources suppressions thread_keys threads tls_reports tls_results usage usage_deltas "
    "warmup_days warmup_decisions warmups ways webhook_attempts webhook_deliveries webhook_queue workers",
    "SELECT": "accounts addresses alarms arrival_keys arrival_queue arrivals attempts auth_events blob_deletes blocked_senders "
    "bulk_senders deliveries dkim_keys dmarc_reports domain_claims domain_mta_sts domains emails engagements event_counts "
    "event_counts_mark events folders forgotten greylist health_findings holds idempotency_keys installation "
    "key_counts lanes mailboxes messages mta_sts_policies organizations pool_serves pools provider_events queue "
    "queue_orders received_tls_reports recipient_domains relayed_mark reports_owed routes routes_out sessions "
    "site_shares sites source_hosts sources suppressions thread_keys threads tls_reports tls_results trainings "
    "unsubscribes usage usage_deltas warmup_days warmup_decisions warmups ways webhook_attempts "
    "webhook_deliveries webhook_queue webhooks workers",
    "UPDATE": "accounts alarms arrival_queue arrivals deliveries dkim_keys domain_claims domains engagements "
    "event_counts event_counts_mark folders forgotten holds key_counts mta_sts_policies pool_serves pools "
    "queue queue_orders recipient_domains relayed_mark reports_owed routes_out site_shares sites source_hosts "
    "sources thread_keys threads tls_reports tls_results trainings usage warmup_days warmup_decisions warmups ways "
    "webhook_deliveries webhook_queue workers",
}
PEOPLE = {
    "DELETE": "sessions",
    "INSERT": "auth_events memberships organizations sessions users",
    "SELECT": "auth_events memberships organizations sessions users",
    "UPDATE": "sessions users",
}


async def _granted(admin: asyncpg.Connection, role: str) -> dict[str, str]:
    rows = await admin.fetch(
        "SELECT privilege_type AS right, string_agg(table_name::text, ' ' ORDER BY table_name::text COLLATE \"C\") AS tables "
        "FROM information_schema.role_table_grants WHERE grantee = $1 AND table_schema = 'public' GROUP BY 1",
        role,
    )
    return {row["right"]: row["tables"] for row in rows}


async def test_rights_of_the_doors(admin: asyncpg.Connection) -> None:
    assert await _granted(admin, "postroom_door") == DOOR


async def test_rights_of_the_workers(admin: asyncpg.Connection) -> None:
    assert await _granted(admin, "postroom_worker") == WORKER


async def test_rights_of_who_signs_people_in(admin: asyncpg.Connection) -> None:
    assert await _granted(admin, "postroom_people") == PEOPLE
