-- Months of sent mail, of events and of webhook deliveries can be dropped once they are old enough (flow/retention.py). By default
-- nothing is: an installation that says nothing keeps everything.

-- Blobs of mail that is going to be dropped: noted with its month, and deleted once that is gone. A key begins with its organization;
-- no tenant reads this.
CREATE TABLE blob_deletes (
  key    text PRIMARY KEY,
  month  date NOT NULL
);
CREATE INDEX blob_deletes_month ON blob_deletes (month);
GRANT SELECT, INSERT, DELETE ON blob_deletes TO postroom_worker;

-- Drops a month, and gives the names of what it dropped. Waits for nobody: while something of it is being read this fails with
-- lock_not_available, and the next time will do. Whether mail still waits there is the caller's to look at, in the same transaction.
CREATE FUNCTION drop_month(kind text, month date) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parents text[] := CASE kind WHEN 'webhooks' THEN ARRAY['webhook_attempts', 'webhook_deliveries']
                              WHEN 'events' THEN ARRAY['webhook_attempts', 'webhook_deliveries', 'events']
                              WHEN 'sent' THEN ARRAY['attempts', 'engagements', 'deliveries', 'emails'] END;
  parent text;
  child text;
BEGIN
  IF parents IS NULL THEN
    RAISE EXCEPTION 'there is no kind of history %', kind;
  END IF;
  -- the month before this one is made anew when it is missing, so it stays
  IF month <> date_trunc('month', month) OR month >= date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month' THEN
    RAISE EXCEPTION '% is no month that may be dropped', month;
  END IF;
  PERFORM set_config('lock_timeout', '100ms', true);
  FOREACH parent IN ARRAY parents LOOP
    child := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
    IF to_regclass(child) IS NOT NULL THEN
      EXECUTE format('DROP TABLE %I', child);
      RETURN NEXT child;
    END IF;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION drop_month(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION drop_month(text, date) TO postroom_worker;
