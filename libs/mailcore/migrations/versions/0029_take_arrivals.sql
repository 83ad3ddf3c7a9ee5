-- ---- arrivals in one round trip ----------------------------------------------------------------------------------------
-- Stores what has arrived, each with its key and its row in the queue, due at once; of those whose key somebody has, the arrival
-- that has it. A key older than `seconds` counts no more; NULL: it counts as long as upkeep keeps it. As a transaction of its own it
-- takes its role itself, which is the same right that whoever calls it has anyway: SET ROLE asks the login (ADR 0040).
CREATE FUNCTION take_arrivals(arrivals json, raws bytea[], seconds double precision)
  RETURNS TABLE (digest bytea, arrival_id uuid)
  LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  stored bigint;
BEGIN
  SET LOCAL ROLE postroom_door;

  WITH new AS (
    SELECT * FROM json_to_recordset(take_arrivals.arrivals)
      AS t (id uuid, org_id uuid, door text, source text, source_id text, mail_from text, rcpt_to text[], facts jsonb, size bigint,
            sha256 text, raw integer, raw_blob text, decisions jsonb, created_at timestamptz, auth jsonb, findings jsonb,
            key text)
  ), taken AS (
    INSERT INTO arrival_keys (digest, org_id, arrival_id, at)
    SELECT decode(key, 'hex'), org_id, id, created_at FROM new ORDER BY key  -- locks are taken in one order
    ON CONFLICT ON CONSTRAINT arrival_keys_pkey DO UPDATE
      SET org_id = excluded.org_id, arrival_id = excluded.arrival_id, at = excluded.at
      WHERE arrival_keys.at < excluded.at - make_interval(secs => seconds)
    RETURNING arrival_id AS id
  ), kept AS (
    INSERT INTO arrivals (id, org_id, door, source, source_id, mail_from, rcpt_to, facts, size, sha256, raw, raw_blob, decisions,
                          created_at, auth, findings)
    SELECT id, org_id, door, source, source_id, mail_from, rcpt_to, facts, size, decode(sha256, 'hex'), raws[raw], raw_blob,
           decisions, created_at, auth, findings
    FROM new JOIN taken USING (id)
  ), queued AS (
    INSERT INTO arrival_queue (arrival_id, org_id, due_at) SELECT id, org_id, now() FROM new JOIN taken USING (id)
  )
  SELECT count(*) INTO stored FROM taken;

  -- a statement of its own: it sees what was committed while the first one waited for a key
  IF stored < json_array_length(take_arrivals.arrivals) THEN
    RETURN QUERY
    SELECT k.digest, k.arrival_id
    FROM json_to_recordset(take_arrivals.arrivals) AS t (id uuid, key text) JOIN arrival_keys k ON k.digest = decode(t.key, 'hex')
    WHERE k.arrival_id <> t.id;
  END IF;
END $$;
