-- Searching and counting emails.

-- ---- search by recipient ---------------------------------------------------------------------------------------------
-- lower() is not leakproof, so that under a policy no index on it is used: the search runs in a lookup_* function. Of the address a
-- hash: the whole one costs a submit twice as much, in processor and WAL (bench/README.md).
CREATE INDEX deliveries_recipient ON deliveries (hashtext(org_id::text || lower(recipient)), email_id);

-- The emails of the current organization to an address (letters in any case), nearest to one end of a range of ids.
CREATE FUNCTION lookup_emails_to(address text, low uuid, high uuid, ascending boolean, most integer)
  RETURNS SETOF uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ (SELECT d.email_id FROM deliveries d
         WHERE NOT $4 AND hashtext(d.org_id::text || lower(d.recipient)) = hashtext(current_org()::text || lower($1))
           AND d.org_id = current_org() AND lower(d.recipient) = lower($1)
           AND d.email_id >= $2 AND d.email_id < $3
         ORDER BY d.email_id DESC LIMIT $5)
        UNION ALL
        (SELECT d.email_id FROM deliveries d
         WHERE $4 AND hashtext(d.org_id::text || lower(d.recipient)) = hashtext(current_org()::text || lower($1))
           AND d.org_id = current_org() AND lower(d.recipient) = lower($1)
           AND d.email_id >= $2 AND d.email_id < $3
         ORDER BY d.email_id LIMIT $5) $$;

CREATE POLICY lookup ON deliveries FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT (email_id, org_id, recipient) ON deliveries TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_emails_to(text, uuid, uuid, boolean, integer) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_emails_to(text, uuid, uuid, boolean, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_emails_to(text, uuid, uuid, boolean, integer) TO postroom_app;

-- ---- counts ----------------------------------------------------------------------------------------------------------
-- Which transaction raised an event: those before event_counts_mark.xid are in event_counts, the others are not. By it no event is
-- missed, however late its transaction commits, and none counted twice (mailcore/flow/count.py).
ALTER TABLE events ADD xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX events_xid ON events (xid);
-- events of an email, but for those that its submit raises: a submit pays nothing for this one
CREATE INDEX events_object ON events (object_id) WHERE NOT (type IN ('email.sent', 'email.scheduled') AND recipients IS NULL);

CREATE TABLE event_counts (
  org_id     uuid NOT NULL,
  at         timestamptz NOT NULL,                         -- a quarter of an hour: no zone's hours begin at other minutes
  domain_id  uuid NOT NULL,                                -- all zeros: of no domain
  kind       text NOT NULL,                                -- sent, delivered, bounced_permanent, unique_opened …
  n          bigint NOT NULL,
  PRIMARY KEY (org_id, at, domain_id, kind)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE event_counts_mark (
  one  boolean PRIMARY KEY DEFAULT true CHECK (one),
  xid  bigint NOT NULL DEFAULT 0                           -- every event of a lower one is counted
);
INSERT INTO event_counts_mark DEFAULT VALUES;

ALTER TABLE event_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE event_counts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON event_counts TO postroom_app USING (org_id = (SELECT current_org()))
  WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON event_counts TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT ON event_counts, event_counts_mark TO postroom_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON event_counts TO postroom_worker;
GRANT SELECT, UPDATE ON event_counts_mark TO postroom_worker;
GRANT UPDATE (xid) ON events TO postroom_worker;           -- after a restore into another server, where xids begin anew
