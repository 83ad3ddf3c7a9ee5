-- Takes back 0007_webhooks.sql.
DROP FUNCTION lookup_endpoints(uuid[]);
CREATE FUNCTION lookup_endpoints(orgs uuid[])
  RETURNS TABLE (webhook_id uuid, org_id uuid, events text[])
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT w.id, w.org_id, w.events FROM webhooks w WHERE w.org_id = ANY (orgs) AND w.status = 'enabled' $$;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_endpoints(uuid[]) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_endpoints(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_endpoints(uuid[]) TO postroom_app, postroom_door, postroom_worker;

REVOKE UPDATE (status, failing_since, disabled_at, disabled_reason, notice_due) ON webhooks FROM postroom_worker;
ALTER TABLE webhook_queue DROP attempts_before, DROP crashes, DROP object_id;
DROP INDEX webhook_deliveries_webhook;
ALTER TABLE webhooks DROP old_secrets_sealed, DROP old_secrets_until, DROP ordered, DROP include_body, DROP failing_since,
  DROP disabled_at, DROP disabled_reason, DROP notice_due;
