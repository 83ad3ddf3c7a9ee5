-- Keys of several domains, limits by organization, the log of API calls.

-- ---- API keys ----------------------------------------------------------------------------------------------------------
ALTER TABLE api_keys
  ADD domain_ids  uuid[],                                  -- only with sending_access; NULL: all of the organization's
  ADD status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive', 'suspended')),
  ADD expires_at  timestamptz;
ALTER TABLE api_keys NO FORCE ROW LEVEL SECURITY;           -- who migrates need not be a superuser
UPDATE api_keys SET domain_ids = ARRAY[domain_id] WHERE domain_id IS NOT NULL;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;
-- An id of a domain that was deleted stays: a key that has lost its last domain sends from none, not from all.
DROP FUNCTION lookup_api_key(bytea);
ALTER TABLE api_keys DROP domain_id;

CREATE FUNCTION lookup_api_key(digest bytea)
  RETURNS TABLE (id uuid, org_id uuid, permission text, domain_ids uuid[], status text, expires_at timestamptz,
                 rate_limit integer)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT k.id, k.org_id, k.permission, k.domain_ids, k.status, k.expires_at, o.rate_limit
        FROM api_keys k JOIN organizations o ON o.id = k.org_id WHERE k.token_hash = digest $$;

-- ---- the log of API calls ----------------------------------------------------------------------------------------------
CREATE TABLE logs (
  id             uuid NOT NULL,                            -- its time is when the request began
  org_id         uuid NOT NULL,
  key_id         uuid,                                     -- who asked: a key,
  user_id        uuid,                                     -- or a person
  method         text NOT NULL,
  endpoint       text NOT NULL,                            -- the path, without its query
  status         smallint NOT NULL,
  duration_ms    real NOT NULL,
  user_agent     text,
  client         text,                                     -- address
  request_id     text,                                     -- the client's own; otherwise the id is it
  request_body   text,                                     -- JSON, masked; NULL also where the emails hold it
  response_body  text,                                     -- JSON, masked
  PRIMARY KEY (org_id, id)
) PARTITION BY RANGE (id);
CREATE INDEX logs_refused ON logs (org_id, id) WHERE status >= 400;

ALTER TABLE logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE logs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON logs TO postroom_app USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY door ON logs FOR INSERT TO postroom_door WITH CHECK (true);
GRANT SELECT ON logs TO postroom_app;
GRANT INSERT ON logs TO postroom_door;

-- ---- partitions --------------------------------------------------------------------------------------------------------
-- Of every partitioned table: a new one needs no line here.
CREATE OR REPLACE FUNCTION make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('postroom.make_partitions'));
  FOR step IN -1 .. ahead LOOP
    FOR parent IN SELECT c.relname FROM pg_class c
                  WHERE c.relkind = 'p' AND c.relnamespace = 'public'::regnamespace ORDER BY c.oid LOOP
      child := format('%s_%s', parent, to_char(month + make_interval(months => step), 'YYYY_MM'));
      IF to_regclass(child) IS NULL THEN
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', child, parent,
                       month_bound((month + make_interval(months => step))::date),
                       month_bound((month + make_interval(months => step + 1))::date));
        IF parent = 'emails' THEN
          -- bodies up to 8 kB stay in the row as they are: compressing them costs more than the disk they save
          EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', child);
        END IF;
        RETURN NEXT child;
      END IF;
    END LOOP;
  END LOOP;
END $$;
SELECT make_partitions();

-- Drops months of the log of which every row is from before that time. Returns the names. What is being read stays for the next time.
CREATE FUNCTION drop_logs(before timestamptz) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  child text;
BEGIN
  PERFORM set_config('lock_timeout', '1s', true);
  FOR child IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'logs'::regclass AND c.relname ~ '^logs_\d{4}_\d{2}$' ORDER BY 1 LOOP
    IF (to_date(right(child, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= before THEN
      BEGIN
        EXECUTE format('DROP TABLE %I', child);
        RETURN NEXT child;
      EXCEPTION WHEN lock_not_available THEN NULL;
      END;
    END IF;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION drop_logs(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_logs(timestamptz) TO postroom_worker;

-- ---- the lookup, made anew ---------------------------------------------------------------------------------------------
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_api_key(bytea) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_api_key(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_api_key(bytea) TO postroom_app, postroom_door, postroom_worker;
