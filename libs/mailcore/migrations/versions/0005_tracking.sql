-- Opens, clicks and unsubscribes.

-- What is known of an email's readers; made with its first open or click. The hits themselves are events.
CREATE TABLE engagements (
  email_id    uuid NOT NULL,
  org_id      uuid NOT NULL,
  opened_at   timestamptz,                                 -- first by a person: no proxy, no scanner
  clicked_at  timestamptz,
  last_click  timestamptz,                                 -- of anybody, and to where: many links at once are a scanner's
  last_link   bytea,                                       -- first 8 octets of its SHA-256
  hour        timestamptz,                                 -- in which `in_hour` events were stored
  in_hour     smallint NOT NULL DEFAULT 0,
  left_out    bigint NOT NULL DEFAULT 0,                   -- hits past the limit of an hour: counted, not stored
  PRIMARY KEY (email_id)
) PARTITION BY RANGE (email_id);

-- Who wants no more broadcast mail of an organization. A list is a topic's id; the nil UUID stands for all of it.
CREATE TABLE unsubscribes (
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  recipient   text COLLATE "C" NOT NULL CHECK (length(recipient) <= 320), -- lower case
  list_id     uuid NOT NULL,
  email_id    uuid NOT NULL,                               -- the mail whose link was used; nil: unknown
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, recipient, list_id)
);

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['engagements', 'unsubscribes'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT ON engagements TO postroom_app;
GRANT SELECT, INSERT, UPDATE ON engagements TO postroom_worker;
GRANT SELECT, INSERT, DELETE ON unsubscribes TO postroom_app;
GRANT SELECT ON unsubscribes TO postroom_worker;
-- whether mail may be sent to somebody is asked by the door, as with suppressions
CREATE POLICY door_read ON unsubscribes FOR SELECT TO postroom_door USING (true);
GRANT SELECT ON unsubscribes TO postroom_door;

SELECT make_partitions();
