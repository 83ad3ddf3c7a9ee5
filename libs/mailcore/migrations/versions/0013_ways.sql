-- Ways out beside the installation's own route: accounts at providers and smart hosts, routes that name them in order, and what
-- providers have reported.

-- A way is an account with its credentials. Its site carries its limits and its health, as any other site does.
CREATE TABLE ways (
  id              uuid PRIMARY KEY,
  org_id          uuid REFERENCES organizations ON DELETE CASCADE,  -- NULL: the installation's, its operator made it
  name            text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  kind            text NOT NULL,                           -- smarthost, or a vendor (mailcore.providers.registry)
  settings        jsonb NOT NULL DEFAULT '{}',
  secrets_sealed  bytea NOT NULL,                          -- JSON of its secrets under kit.seal, purpose 'way'
  reports         boolean NOT NULL DEFAULT false,          -- its provider posts events to us: what it took is relayed, not delivered
  enabled         boolean NOT NULL DEFAULT true,
  site_id         bigint NOT NULL UNIQUE REFERENCES sites,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ways_org ON ways (org_id, id);

-- Which mail goes by which ways, in order; the first whose site does not rest takes it. The nil UUID is the installation's own route.
CREATE TABLE routes_out (
  id          uuid PRIMARY KEY,
  lane_route  bigint GENERATED ALWAYS AS IDENTITY UNIQUE,  -- what lanes name it by; 0 is none
  org_id      uuid REFERENCES organizations ON DELETE CASCADE,  -- NULL: the installation's, for mail that no route of its organization takes
  for_org     uuid REFERENCES organizations ON DELETE CASCADE,  -- of the installation's: for this organization only
  domain_id   uuid REFERENCES domains ON DELETE CASCADE,   -- of the sender
  tag_name    text CHECK (length(tag_name) BETWEEN 1 AND 256),
  tag_value   text CHECK (length(tag_value) <= 256),       -- NULL: whatever its value
  ways        uuid[] NOT NULL CHECK (cardinality(ways) BETWEEN 1 AND 10),
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE NULLS NOT DISTINCT (org_id, for_org, domain_id, tag_name, tag_value),
  CHECK (tag_value IS NULL OR tag_name IS NOT NULL),
  CHECK (org_id IS NULL OR for_org IS NULL)
);
CREATE INDEX routes_out_org ON routes_out (org_id, id);

-- What a provider posted and is done with: SHA-256 of way and event id, for 30 days.
CREATE TABLE provider_events (
  digest  bytea PRIMARY KEY,
  org_id  uuid NOT NULL,
  at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX provider_events_age ON provider_events (at);

-- A lane's route is chosen when mail is submitted; which of its ways takes the mail is read at each look.
ALTER TABLE lanes ADD route_id bigint NOT NULL DEFAULT 0;
ALTER TABLE lanes DROP CONSTRAINT lanes_org_id_domain_class_key;
ALTER TABLE lanes ADD UNIQUE (org_id, domain, class, route_id);

-- relayed: a provider took it and will report what becomes of it (the word is RFC 3464's, §2.3.3)
ALTER TABLE deliveries DROP CONSTRAINT deliveries_state_check;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_state_check
  CHECK (state IN ('scheduled', 'queued', 'relayed', 'delivered', 'bounced', 'failed', 'suppressed', 'cancelled', 'expired',
                   'quarantined'));

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['ways', 'routes_out', 'provider_events'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON ways, routes_out TO postroom_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ways, routes_out TO postroom_worker;  -- the installation's, for its operator
GRANT SELECT, INSERT, DELETE ON provider_events TO postroom_worker;

-- The routes that an organization's mail may take, its own and the installation's: asked where the door is, which sees no tenant.
CREATE FUNCTION lookup_routes_out(org uuid)
  RETURNS TABLE (lane_route bigint, own boolean, for_org uuid, domain_id uuid, tag_name text, tag_value text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT o.lane_route, o.org_id IS NOT NULL, o.for_org, o.domain_id, o.tag_name, o.tag_value FROM routes_out o
        WHERE o.org_id = org OR (o.org_id IS NULL AND (o.for_org IS NULL OR o.for_org = org)) $$;
CREATE POLICY lookup ON routes_out FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON routes_out TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_routes_out(uuid) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_routes_out(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_routes_out(uuid) TO postroom_app, postroom_door, postroom_worker;
