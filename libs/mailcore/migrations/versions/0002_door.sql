-- What the door of sending knows besides: raw messages, tracking by email, suppressions, usage and quotas.

-- ---- emails ----------------------------------------------------------------------------------------------------------
ALTER TABLE emails
  ADD raw           bytea,                                 -- a whole message that was handed in, up to 64 KiB; beyond that:
  ADD raw_blob      text,                                  -- key of its blob; body_bytes is its size
  ADD track_opens   boolean,                               -- NULL: as the domain says
  ADD track_clicks  boolean;
ALTER TABLE emails ALTER raw SET STORAGE EXTERNAL;

-- ---- limits of an organization ---------------------------------------------------------------------------------------
ALTER TABLE organizations
  ADD daily_quota    bigint CHECK (daily_quota >= 0),      -- recipients a day (UTC); 0 is no limit, NULL as QUOTA__DAILY says
  ADD monthly_quota  bigint CHECK (monthly_quota >= 0),    -- recipients a month (UTC); 0 is no limit, NULL as QUOTA__MONTHLY says
  ADD rate_limit     integer CHECK (rate_limit >= 0);      -- requests a second; 0 is no limit, NULL as RATE_LIMIT__… says

-- ---- suppressions ----------------------------------------------------------------------------------------------------
-- Addresses that an organization sends nothing to. Compared as they are stored: ASCII letters in lower case, the domain in A-labels.
CREATE TABLE suppressions (
  id          uuid PRIMARY KEY,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  email       text COLLATE "C" NOT NULL,
  origin      text NOT NULL CHECK (origin IN ('bounce', 'complaint', 'manual')),
  source_id   uuid,                                        -- the email that bounced or was complained about
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, email)
);
CREATE INDEX suppressions_org ON suppressions (org_id, id);

-- ---- usage -----------------------------------------------------------------------------------------------------------
-- Recipients of accepted mail. A submit adds a row and touches nobody else's; what is added up moves to `usage`. Both together
-- are what was used.
CREATE TABLE usage (
  org_id  uuid NOT NULL,
  day     date NOT NULL,                                   -- UTC
  sent    bigint NOT NULL,
  PRIMARY KEY (org_id, day)
) WITH (fillfactor = 50);
CREATE TABLE usage_deltas (
  org_id  uuid NOT NULL,
  day     date NOT NULL,
  sent    bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX usage_deltas_org ON usage_deltas (org_id, day);

-- What an organization used today and this month, and its own limits.
CREATE FUNCTION lookup_usage(orgs uuid[])
  RETURNS TABLE (org_id uuid, day date, daily_quota bigint, monthly_quota bigint, daily bigint, monthly bigint)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.id, today.day, o.daily_quota, o.monthly_quota,
               coalesce(sum(u.sent) FILTER (WHERE u.day = today.day), 0)::bigint, coalesce(sum(u.sent), 0)::bigint
        FROM organizations o
        CROSS JOIN (SELECT (now() AT TIME ZONE 'UTC')::date AS day) today
        LEFT JOIN LATERAL (
          SELECT s.day, s.sent FROM usage s
          WHERE s.org_id = o.id AND s.day BETWEEN date_trunc('month', today.day)::date AND today.day
          UNION ALL
          SELECT d.day, d.sent FROM usage_deltas d
          WHERE d.org_id = o.id AND d.day BETWEEN date_trunc('month', today.day)::date AND today.day
        ) u ON true
        WHERE o.id = ANY (orgs) GROUP BY o.id, today.day $$;

-- ---- row-level security ----------------------------------------------------------------------------------------------
DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['suppressions', 'usage', 'usage_deltas'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON suppressions TO postroom_app;
GRANT SELECT ON usage, usage_deltas TO postroom_app;
-- a door must see which recipients get nothing, by their whole address; and it counts what it takes
CREATE POLICY door_read ON suppressions FOR SELECT TO postroom_door USING (true);
CREATE POLICY door ON usage_deltas FOR INSERT TO postroom_door WITH CHECK (true);
GRANT SELECT ON suppressions TO postroom_door;
GRANT INSERT ON usage_deltas TO postroom_door;
GRANT SELECT, INSERT ON suppressions TO postroom_worker;     -- who bounced or complained
GRANT SELECT, INSERT, UPDATE ON usage TO postroom_worker;    -- adds up
GRANT SELECT, INSERT, DELETE ON usage_deltas TO postroom_worker;

CREATE POLICY lookup ON organizations FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON usage FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON usage_deltas FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON organizations, usage, usage_deltas TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_usage(uuid[]) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_usage(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_usage(uuid[]) TO postroom_app, postroom_door, postroom_worker;

-- ---- idempotency keys in one round trip --------------------------------------------------------------------------------
-- Locks each key until the transaction ends, tells what was stored under it within a day, and stores what is asked where the lock
-- was had and nothing was there. Three statements, for each sees what was committed before it (READ COMMITTED): the second what
-- the holder of a lock before us stored. Runs with the caller's rights. A row a key, in order.
CREATE FUNCTION take_idempotency_keys(orgs uuid[], endpoints text[], keys text[], locks bigint[], fingerprints bytea[],
                                      responses bytea[])
  RETURNS TABLE (busy boolean, mine boolean, fingerprint bytea, response bytea)
  LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  locked boolean[] := ARRAY(SELECT pg_try_advisory_xact_lock(k.id) FROM unnest(locks) WITH ORDINALITY AS k (id, n) ORDER BY k.n);
BEGIN
  RETURN QUERY
  WITH asked AS MATERIALIZED (
    SELECT k.*, i.fingerprint AS stored_fingerprint, i.response AS stored_response
    FROM unnest(orgs, endpoints, keys, fingerprints, responses, locked) WITH ORDINALITY
      AS k (org_id, endpoint, key, fingerprint, response, locked, n)
    LEFT JOIN LATERAL (
      SELECT i.fingerprint, i.response FROM idempotency_keys i
      WHERE i.org_id = k.org_id AND i.endpoint = k.endpoint AND i.key = k.key AND i.created_at > now() - interval '24 hours'
      OFFSET 0) i ON true
  ), stored AS (
    INSERT INTO idempotency_keys AS i (org_id, endpoint, key, fingerprint, response, created_at)
    SELECT a.org_id, a.endpoint, a.key, a.fingerprint, a.response, now() FROM asked a
    WHERE a.locked AND a.stored_fingerprint IS NULL ORDER BY a.org_id, a.endpoint, a.key
    ON CONFLICT (org_id, endpoint, key) DO UPDATE
      SET fingerprint = EXCLUDED.fingerprint, response = EXCLUDED.response, created_at = EXCLUDED.created_at
      WHERE i.created_at <= now() - interval '24 hours'
    RETURNING i.org_id, i.endpoint, i.key
  )
  SELECT NOT a.locked, s.key IS NOT NULL, a.stored_fingerprint, a.stored_response
  FROM asked a LEFT JOIN stored s ON s.org_id = a.org_id AND s.endpoint = a.endpoint AND s.key = a.key
  ORDER BY a.n;
END $$;
REVOKE ALL ON FUNCTION take_idempotency_keys(uuid[], text[], text[], bigint[], bytea[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION take_idempotency_keys(uuid[], text[], text[], bigint[], bytea[], bytea[]) TO postroom_door;
