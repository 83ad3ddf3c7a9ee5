-- The switchboard: routes of received mail, mail that is held back, mail of others that is passed on.

-- An organization's table, tried in the order of `position`. What may stand in match, except_ and actions: mailcore.flow.table.
CREATE TABLE routes (
  id          uuid PRIMARY KEY,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  position    integer NOT NULL,
  name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  enabled     boolean NOT NULL DEFAULT true,
  match       jsonb NOT NULL,
  except_     jsonb,
  actions     jsonb NOT NULL,
  stop        boolean NOT NULL DEFAULT true,
  created_at  timestamptz NOT NULL DEFAULT now(),
  updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, position) DEFERRABLE INITIALLY DEFERRED
);
ALTER TABLE routes ENABLE ROW LEVEL SECURITY;
ALTER TABLE routes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON routes TO postroom_app USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON routes TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON routes TO postroom_app;
GRANT SELECT ON routes TO postroom_worker;

-- A relay's way stands in routes_out under this tag, so that lanes can name it; its owner made a route of received mail, not this row.
COMMENT ON COLUMN routes_out.tag_name IS 'postroom:relay is kept for relays of received mail (mailcore.store.routes)';

-- quarantined: nothing is done with it before somebody releases or deletes it; one that a decision holds goes at held_until.
-- dropped: nothing was done with it, by a route or after quarantine; refused: a route rejected it when it had been taken already.
ALTER TABLE arrivals DROP CONSTRAINT arrivals_state_check;
ALTER TABLE arrivals ADD CONSTRAINT arrivals_state_check
  CHECK (state IN ('received', 'routed', 'quarantined', 'dropped', 'refused'));
ALTER TABLE arrivals
  ADD held_by      text,                                   -- the step that holds it: routes, dmarc, a scanner …; NULL: it killed its workers
  ADD held_reason  text,
  ADD held_until   timestamptz,                            -- then it is deleted
  ADD released_at  timestamptz;                            -- since then nothing holds it again
CREATE INDEX arrivals_quarantined ON arrivals (org_id, id) WHERE state = 'quarantined';
CREATE INDEX arrivals_held_until ON arrivals (held_until) WHERE state = 'quarantined' AND held_until IS NOT NULL;

-- Somebody else's mail that is passed on as it came: what is put before it, and how its envelope and seal are made
-- (mailcore.flow.pass_on). NULL: mail of our own.
ALTER TABLE emails ADD passed_on jsonb;

-- Whether a lane's mail is received mail on its way to another server of its organization: nobody there is ever suppressed. Asked only
-- of a recipient who is on the list.
CREATE FUNCTION lookup_relay(lane bigint) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT EXISTS (SELECT FROM lanes l JOIN routes_out o ON o.lane_route = l.route_id
                       WHERE l.id = lane AND l.route_id <> 0 AND o.tag_name = 'postroom:relay') $$;
CREATE POLICY lookup ON lanes FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON lanes TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_relay(bigint) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_relay(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_relay(bigint) TO postroom_app, postroom_door, postroom_worker;
