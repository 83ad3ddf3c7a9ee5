-- Takes back 0003_keys_and_logs.sql. A key of several domains keeps the first that still exists; one that has none left is deleted.
DROP FUNCTION drop_logs(timestamptz);
DROP TABLE logs;

CREATE OR REPLACE FUNCTION make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('postroom.make_partitions'));
  FOR step IN -1 .. ahead LOOP
    FOREACH parent IN ARRAY ARRAY['emails', 'deliveries', 'attempts', 'events', 'webhook_deliveries', 'webhook_attempts',
                                  'arrivals'] LOOP
      child := format('%s_%s', parent, to_char(month + make_interval(months => step), 'YYYY_MM'));
      IF to_regclass(child) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                       month_bound((month + make_interval(months => step))::date),
                       month_bound((month + make_interval(months => step + 1))::date));
        IF parent = 'emails' THEN
          EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', child);
        END IF;
        RETURN NEXT child;
      END IF;
    END LOOP;
  END LOOP;
END $$;

DROP FUNCTION lookup_api_key(bytea);
ALTER TABLE api_keys ADD domain_id uuid REFERENCES domains ON DELETE CASCADE;
ALTER TABLE api_keys NO FORCE ROW LEVEL SECURITY;
ALTER TABLE domains NO FORCE ROW LEVEL SECURITY;
UPDATE api_keys k SET domain_id = (SELECT d.id FROM domains d WHERE d.id = ANY (k.domain_ids) AND d.org_id = k.org_id LIMIT 1);
DELETE FROM api_keys WHERE domain_ids IS NOT NULL AND domain_id IS NULL;
-- 0001 knows neither of these, and a key that is not active must not come back to life
DELETE FROM api_keys WHERE status <> 'active' OR expires_at IS NOT NULL;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
ALTER TABLE domains FORCE ROW LEVEL SECURITY;
ALTER TABLE api_keys DROP domain_ids, DROP status, DROP expires_at;

CREATE FUNCTION lookup_api_key(digest bytea)
  RETURNS TABLE (id uuid, org_id uuid, permission text, domain_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT k.id, k.org_id, k.permission, k.domain_id FROM api_keys k WHERE k.token_hash = digest $$;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_api_key(bytea) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_api_key(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_api_key(bytea) TO postroom_app, postroom_door, postroom_worker;
