-- Takes back 0015_reputation.sql.
CREATE OR REPLACE FUNCTION lookup_sandbox_domain(name text)
  RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.id FROM domains d
        WHERE d.name = lookup_sandbox_domain.name AND d.sending
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'receiving') $$;
DROP POLICY worker ON api_keys;
REVOKE SELECT (id, org_id, name, status), UPDATE (status) ON api_keys FROM postroom_worker;
REVOKE UPDATE (conversation) ON attempts FROM postroom_worker;
DROP TABLE alarms, key_counts, health_findings, forgotten;
DROP INDEX event_counts_bad;
