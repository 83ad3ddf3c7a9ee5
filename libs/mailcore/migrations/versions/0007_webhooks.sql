-- Webhooks: secrets in rotation, endpoints that fail, order, replays, posts that kill their worker.

-- ---- endpoints -------------------------------------------------------------------------------------------------------
ALTER TABLE webhooks
  ADD old_secrets_sealed  bytea[] NOT NULL DEFAULT '{}',        -- rotated away; they still sign until:
  ADD old_secrets_until   timestamptz[] NOT NULL DEFAULT '{}',
  ADD ordered             boolean NOT NULL DEFAULT false,       -- events about one object are posted one after another
  ADD include_body        boolean NOT NULL DEFAULT false,       -- email.received carries html, text and headers
  ADD failing_since       timestamptz,                          -- the first failed post since the last success
  ADD disabled_at         timestamptz,
  ADD disabled_reason     text,                                 -- why it was disabled, when not by hand
  ADD notice_due          boolean NOT NULL DEFAULT false;       -- its owners are still to be told
CREATE INDEX webhooks_notice ON webhooks (id) WHERE notice_due;

-- newest first, for an endpoint's list of events
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, event_id);

-- ---- the queue -------------------------------------------------------------------------------------------------------
ALTER TABLE webhook_queue
  ADD attempts_before  smallint NOT NULL DEFAULT 0,        -- attempts made before it was replayed: the schedule begins anew
  ADD crashes          smallint NOT NULL DEFAULT 0,        -- posts that ended with their worker's death
  ADD object_id        uuid;                               -- of an endpoint that wants order; NULL: waits for nobody
CREATE INDEX webhook_queue_line ON webhook_queue (webhook_id, object_id, event_id) WHERE object_id IS NOT NULL;
CREATE INDEX webhook_queue_line_due ON webhook_queue (due_at) WHERE object_id IS NOT NULL;
CREATE INDEX webhook_queue_suspects ON webhook_queue (due_at) WHERE crashes > 0;

-- ---- roles -----------------------------------------------------------------------------------------------------------
GRANT UPDATE (status, failing_since, disabled_at, disabled_reason, notice_due) ON webhooks TO postroom_worker;

DROP FUNCTION lookup_endpoints(uuid[]);
CREATE FUNCTION lookup_endpoints(orgs uuid[])
  RETURNS TABLE (webhook_id uuid, org_id uuid, events text[], ordered boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT w.id, w.org_id, w.events, w.ordered FROM webhooks w WHERE w.org_id = ANY (orgs) AND w.status = 'enabled' $$;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_endpoints(uuid[]) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_endpoints(uuid[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_endpoints(uuid[]) TO postroom_app, postroom_door, postroom_worker;
