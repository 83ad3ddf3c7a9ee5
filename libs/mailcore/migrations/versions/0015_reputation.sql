-- Reputation: alarms and pauses, what keys send, what the health checks found, what is forgotten.

-- ---- alarms ----------------------------------------------------------------------------------------------------------
-- What the guard noticed about a domain or a key, and what it did. The row that is open (`ended_at` NULL) with action `paused` is
-- the pause itself: the door of sending reads it with the domain (store.domains.sending_id).
CREATE TABLE alarms (
  id         uuid PRIMARY KEY,                             -- UUIDv7: since when
  org_id     uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id  uuid,                                         -- it may be gone: by its name a pause outlives it,
  domain     text,                                         -- or whoever is paused would delete the domain and add it again
  key_id     uuid,                                         -- of an API key; it may be gone
  kind       text NOT NULL CHECK (kind IN ('complaints', 'bounces', 'volume', 'manual')),
  action     text NOT NULL CHECK (action IN ('warned', 'paused', 'suspended')),
  text       text NOT NULL CHECK (length(text) <= 1000),   -- what happened and what to do, for people
  facts      jsonb NOT NULL DEFAULT '{}',                  -- the numbers it was decided by
  ended_at   timestamptz,
  ended_by   text CHECK (ended_by IN ('rate', 'person', 'pause')),
  CHECK (num_nonnulls(domain_id, key_id) = 1),
  CHECK ((domain_id IS NULL) = (domain IS NULL)),
  CHECK ((ended_at IS NULL) = (ended_by IS NULL))
);
CREATE INDEX alarms_org ON alarms (org_id, id);
CREATE UNIQUE INDEX alarms_open ON alarms (coalesce(domain_id, key_id), kind, action) WHERE ended_at IS NULL;
-- the guard looks at the domains that bounced or were complained about, not at all that send
CREATE INDEX event_counts_bad ON event_counts (at) WHERE kind IN ('bounced_permanent', 'complained');
CREATE INDEX alarms_domain ON alarms (org_id, domain, id) WHERE domain IS NOT NULL;
CREATE INDEX alarms_paused ON alarms (org_id, domain) WHERE action = 'paused' AND ended_at IS NULL;

-- ---- what keys send --------------------------------------------------------------------------------------------------
-- Recipients by the quarter of an hour, and a few of the emails, by which the share that bounced is known.
CREATE TABLE key_counts (
  org_id  uuid NOT NULL,
  key_id  uuid NOT NULL,
  at      timestamptz NOT NULL,
  sent    bigint NOT NULL,
  sample  uuid[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (key_id, at)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX key_counts_age ON key_counts (at);

-- ---- what the health checks found last -------------------------------------------------------------------------------
CREATE TABLE health_findings (
  place    integer PRIMARY KEY,                            -- in the order in which they should be mended
  "check"  text NOT NULL,
  subject  text NOT NULL,                                  -- the address, domain or list it is about; empty: the installation
  status   text NOT NULL CHECK (status IN ('ok', 'wrong', 'unknown')),
  text     text NOT NULL,
  advice   text NOT NULL,                                  -- one line; empty where nothing is to be done
  at       timestamptz NOT NULL
);
GRANT SELECT ON health_findings TO postroom_app;
GRANT SELECT, INSERT, DELETE ON health_findings TO postroom_worker;

-- ---- conversations are kept for 30 days ------------------------------------------------------------------------------
-- Those of emails with a lower id are gone.
CREATE TABLE forgotten (
  one    boolean PRIMARY KEY DEFAULT true CHECK (one),
  below  uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO forgotten DEFAULT VALUES;
GRANT SELECT, UPDATE ON forgotten TO postroom_worker;
GRANT UPDATE (conversation) ON attempts TO postroom_worker;

-- ---- row-level security ----------------------------------------------------------------------------------------------
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['alarms', 'key_counts'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT ON alarms TO postroom_app;                    -- only the guard and the operator end one
GRANT SELECT, INSERT, UPDATE ON key_counts TO postroom_app; -- who sends counts
GRANT SELECT, INSERT, UPDATE ON alarms TO postroom_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON key_counts TO postroom_worker;
-- a key that is stolen is suspended
CREATE POLICY worker ON api_keys TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT (id, org_id, name, status), UPDATE (status) ON api_keys TO postroom_worker;

-- The sandbox is paused for everybody.
CREATE OR REPLACE FUNCTION lookup_sandbox_domain(name text)
  RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.id FROM domains d
        WHERE d.name = lookup_sandbox_domain.name AND d.sending
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'receiving')
          AND NOT EXISTS (SELECT FROM alarms a WHERE a.org_id = d.org_id AND a.domain = d.name AND a.action = 'paused'
                          AND a.ended_at IS NULL) $$;
CREATE POLICY lookup ON alarms FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON alarms TO postroom_lookup;
