-- Takes back 0013_ways.sql. Mail that a provider took counts as delivered; lanes of routes lose theirs, their mail joins the others'.
DROP FUNCTION lookup_routes_out(uuid);
ALTER TABLE deliveries NO FORCE ROW LEVEL SECURITY;
ALTER TABLE lanes NO FORCE ROW LEVEL SECURITY;
ALTER TABLE queue NO FORCE ROW LEVEL SECURITY;
UPDATE deliveries SET state = 'delivered' WHERE state = 'relayed';
ALTER TABLE deliveries DROP CONSTRAINT deliveries_state_check;
ALTER TABLE deliveries ADD CONSTRAINT deliveries_state_check
  CHECK (state IN ('scheduled', 'queued', 'delivered', 'bounced', 'failed', 'suppressed', 'cancelled', 'expired', 'quarantined'));
INSERT INTO lanes (org_id, domain, class)
  SELECT DISTINCT org_id, domain, class FROM lanes WHERE route_id <> 0 ON CONFLICT DO NOTHING;
UPDATE queue q SET lane_id = plain.id
  FROM lanes l JOIN lanes plain ON plain.org_id = l.org_id AND plain.domain = l.domain AND plain.class = l.class AND plain.route_id = 0
  WHERE q.lane_id = l.id AND l.route_id <> 0;
DELETE FROM lanes WHERE route_id <> 0;
ALTER TABLE deliveries FORCE ROW LEVEL SECURITY;
ALTER TABLE lanes FORCE ROW LEVEL SECURITY;
ALTER TABLE queue FORCE ROW LEVEL SECURITY;
ALTER TABLE lanes DROP COLUMN route_id;
ALTER TABLE lanes ADD UNIQUE (org_id, domain, class);
DROP TABLE provider_events, routes_out, ways;
