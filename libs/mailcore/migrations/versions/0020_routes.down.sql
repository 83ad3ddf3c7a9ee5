-- Takes back 0020_routes.sql. What was dropped or refused counts as routed to nobody.
DROP FUNCTION lookup_relay(bigint);
REVOKE SELECT ON lanes FROM postroom_lookup;
DROP POLICY lookup ON lanes;
ALTER TABLE emails DROP passed_on;
DROP INDEX arrivals_quarantined, arrivals_held_until;
ALTER TABLE arrivals DROP CONSTRAINT arrivals_state_check;
ALTER TABLE arrivals NO FORCE ROW LEVEL SECURITY;
UPDATE arrivals SET state = 'routed' WHERE state IN ('dropped', 'refused');
ALTER TABLE arrivals FORCE ROW LEVEL SECURITY;
ALTER TABLE arrivals ADD CONSTRAINT arrivals_state_check CHECK (state IN ('received', 'routed', 'quarantined'));
ALTER TABLE arrivals DROP held_by, DROP held_reason, DROP held_until, DROP released_at;
COMMENT ON COLUMN routes_out.tag_name IS NULL;
DELETE FROM routes_out WHERE tag_name = 'postroom:relay';
DROP TABLE routes;
