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

-- The partitions of every table that has them, whichever revision made it.
CREATE OR REPLACE FUNCTION make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('postroom.make_partitions'));
  FOR step IN -1 .. ahead LOOP
    FOR parent IN SELECT c.relname FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid
                  WHERE c.relnamespace = 'public'::regnamespace ORDER BY c.relname LOOP
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
