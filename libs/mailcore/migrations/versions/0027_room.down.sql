CREATE OR REPLACE FUNCTION make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('postroom.make_partitions'));
  FOR step IN -1 .. ahead LOOP
    FOR parent IN SELECT c.relname FROM pg_class c
                  WHERE c.relkind = 'p' AND c.relnamespace = 'public'::regnamespace ORDER BY c.oid LOOP
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

DO $$
DECLARE
  child regclass;
BEGIN
  FOR child IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'deliveries'::regclass LOOP
    EXECUTE format('ALTER TABLE %s RESET (fillfactor)', child);
  END LOOP;
END $$;
