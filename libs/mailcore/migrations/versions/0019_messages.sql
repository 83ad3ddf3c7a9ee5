-- Messages are read, grouped and found: threads, flags, what a list shows of them, and the words they are searched by.

-- ---- threads ---------------------------------------------------------------------------------------------------------
-- What belongs together in one mailbox. A thread that lost its last message is deleted.
CREATE TABLE threads (
  id            uuid PRIMARY KEY,
  org_id        uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  mailbox_id    uuid NOT NULL REFERENCES mailboxes ON DELETE CASCADE,
  subject       text,                                      -- of its first message, without `Re:` and the like
  participants  text[] NOT NULL DEFAULT '{}',              -- addresses in lower case: the first 100
  messages      integer NOT NULL CHECK (messages >= 0),
  first_at      timestamptz NOT NULL,
  last_at       timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX threads_org ON threads (org_id, last_at, id);
CREATE INDEX threads_mailbox ON threads (mailbox_id, last_at, id);

-- By what a message finds its thread (flow/threads.py): every Message-ID that a message of the thread has or names, a provider's
-- thread id, a subject. It may point to a thread that is gone: then it is as good as unknown.
CREATE TABLE thread_keys (
  org_id      uuid NOT NULL,
  mailbox_id  uuid NOT NULL REFERENCES mailboxes ON DELETE CASCADE,
  key         uuid NOT NULL,                               -- half a SHA-256 of what it is and of its text
  thread_id   uuid NOT NULL,
  PRIMARY KEY (mailbox_id, key)
) WITH (fillfactor = 90);

-- ---- messages --------------------------------------------------------------------------------------------------------
-- `flags` are IMAP's (RFC 9051 §2.3.2): \Seen, \Flagged and keywords.
ALTER TABLE messages
  ADD COLUMN thread_id    uuid,
  ADD COLUMN thread_by    text CHECK (thread_by IN ('new', 'in_reply_to', 'references', 'message_id', 'provider', 'subject')),
  ADD COLUMN reply_to     text[] NOT NULL DEFAULT '{}',
  ADD COLUMN attachments  integer NOT NULL DEFAULT 0,      -- those that are not shown within its text
  ADD COLUMN snippet      text CHECK (length(snippet) <= 300),
  ADD COLUMN doubts       text[] NOT NULL DEFAULT '{}',    -- what makes it look like another's (mime/doubts.py)
  ADD COLUMN seen         boolean NOT NULL GENERATED ALWAYS AS ('\Seen' = ANY (flags)) STORED,
  ADD COLUMN flagged      boolean NOT NULL GENERATED ALWAYS AS ('\Flagged' = ANY (flags)) STORED;

-- lists go by the time a message came, which of mirrored mail is not that of its id
DROP INDEX messages_org, messages_mailbox;
CREATE INDEX messages_org ON messages (org_id, received_at, id);
CREATE INDEX messages_mailbox ON messages (mailbox_id, received_at, id);
CREATE INDEX messages_thread ON messages (thread_id, received_at, id);
-- they are counted: with the organization in it, the policy is answered by the index alone
CREATE INDEX messages_unseen ON messages (mailbox_id, received_at, id) INCLUDE (org_id) WHERE NOT seen;
CREATE INDEX messages_org_unseen ON messages (org_id, received_at, id) WHERE NOT seen;
CREATE INDEX messages_flagged ON messages (org_id, received_at, id) WHERE flagged;

CREATE INDEX mailboxes_org ON mailboxes (org_id, id);
ALTER TABLE mailboxes ADD COLUMN display_name text CHECK (length(display_name) <= 200);

-- ---- search ----------------------------------------------------------------------------------------------------------
-- Every lexeme begins with the mark of its organization and of 28 days (search_mark): so one index serves all tenants, no list of it is
-- longer than what came in that time, and newest first needs no sort of everything. A table of its own: a flag of a message
-- changes, its words never.
CREATE TABLE message_words (
  message_id   uuid PRIMARY KEY REFERENCES messages ON DELETE CASCADE,
  org_id       uuid NOT NULL,
  mailbox_id   uuid NOT NULL,
  received_at  timestamptz NOT NULL,
  words        tsvector NOT NULL
);
CREATE INDEX message_words_words ON message_words USING gin (words) WITH (gin_pending_list_limit = 1024);

DO $$
BEGIN
  -- roles are the cluster's and outlive the database
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postroom_search') THEN
    CREATE ROLE postroom_search NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
  -- who migrates may not be a superuser: to give things to a role it must be a member of it
  GRANT postroom_search TO CURRENT_USER;
END $$;

CREATE FUNCTION search_mark(org uuid, period integer) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN left(encode(sha256(convert_to(org::text || ':' || period::text, 'UTF8')), 'hex'), 6);

CREATE FUNCTION search_period(at timestamptz) RETURNS integer
  LANGUAGE sql IMMUTABLE PARALLEL SAFE
  RETURN floor(extract(epoch FROM at) / 2419200)::integer;

-- One period's matches older than (before_at, before_id), newest first. Only search_messages may call it, and it becomes a part of
-- that. Parameters by number: the test of its plan runs this body.
CREATE FUNCTION search_by_index(org uuid, query tsquery, boxes uuid[], since timestamptz, before_at timestamptz, before_id uuid,
                                unseen boolean, starred boolean, most integer)
  RETURNS TABLE (message_id uuid, received_at timestamptz)
  LANGUAGE sql STABLE
  AS $$
SELECT w.message_id, w.received_at FROM message_words w
WHERE w.words @@ $2 AND w.org_id = $1 AND ($3 IS NULL OR w.mailbox_id = ANY ($3)) AND w.received_at >= $4
  AND (w.received_at, w.message_id) < ($5, $6)
  AND ($7 IS NULL OR EXISTS (SELECT FROM messages m WHERE m.id = w.message_id AND m.seen <> $7))
  AND ($8 IS NULL OR EXISTS (SELECT FROM messages m WHERE m.id = w.message_id AND m.flagged = $8))
ORDER BY w.received_at DESC, w.message_id DESC LIMIT $9
$$;

-- The same among the newest `look` messages only, looked at one by one: what stands in many is found sooner so than by a list of all
-- that have it.
CREATE FUNCTION search_by_age(org uuid, query tsquery, boxes uuid[], since timestamptz, before_at timestamptz, before_id uuid,
                              unseen boolean, starred boolean, most integer, look integer)
  RETURNS TABLE (message_id uuid, received_at timestamptz)
  LANGUAGE sql STABLE
  AS $$
SELECT m.id, m.received_at
FROM (SELECT n.id, n.received_at, n.seen, n.flagged FROM messages n
      WHERE n.org_id = $1 AND n.received_at >= $4 AND (n.received_at, n.id) < ($5, $6)
      ORDER BY n.received_at DESC, n.id DESC LIMIT $10) m
JOIN message_words w ON w.message_id = m.id
WHERE w.words @@ $2 AND ($3 IS NULL OR w.mailbox_id = ANY ($3)) AND ($7 IS NULL OR m.seen <> $7) AND ($8 IS NULL OR m.flagged = $8)
ORDER BY m.received_at DESC, m.id DESC LIMIT $9
$$;

-- Matches of `query` in an organization, newest first: period by period back from (before_at, before_id) until `most` are found, `since`
-- is reached, or `patience` is over; then a last row without an id tells up to when was looked. In `query` a ~ stands for the mark.
CREATE FUNCTION search_messages(org uuid, query text, boxes uuid[], since timestamptz, before_at timestamptz, before_id uuid,
                                unseen boolean, starred boolean, most integer, patience interval)
  RETURNS TABLE (message_id uuid, received_at timestamptz)
  LANGUAGE plpgsql STABLE SECURITY DEFINER
  SET search_path = public, pg_temp
  SET plan_cache_mode = force_generic_plan                 -- planning a period takes longer than looking through it
  AS $$
DECLARE
  started CONSTANT timestamptz := clock_timestamp();
  oldest timestamptz;
  newest timestamptz := before_at;
  starts timestamptz;
  ends timestamptz;
  marked tsquery;
  first boolean := true;
  look integer;
  wider integer;
  something boolean := false;
  ids uuid[];
  times timestamptz[];
BEGIN
  -- the wall that the policy cannot be here: an organization searches its own mail
  IF org IS DISTINCT FROM (SELECT current_org()) THEN
    RAISE insufficient_privilege USING MESSAGE = 'search_messages: another organization';
  END IF;
  SELECT min(m.received_at) INTO oldest FROM messages m WHERE m.org_id = org;
  LOOP
    -- the next message there is tells the next period worth looking at
    IF NOT something THEN
      IF unseen THEN
        SELECT max(m.received_at) INTO newest FROM messages m WHERE m.org_id = org AND NOT m.seen AND m.received_at <= newest;
      ELSIF starred THEN
        SELECT max(m.received_at) INTO newest FROM messages m WHERE m.org_id = org AND m.flagged AND m.received_at <= newest;
      ELSE
        SELECT max(m.received_at) INTO newest FROM messages m WHERE m.org_id = org AND m.received_at <= newest;
      END IF;
    END IF;
    EXIT WHEN newest IS NULL OR newest < since OR newest < oldest;
    starts := to_timestamp(search_period(newest) * 2419200.0);
    ends := starts + interval '2419200 seconds';
    IF before_at < ends THEN
      ends := before_at;
    ELSE
      before_id := '00000000-0000-0000-0000-000000000000';
    END IF;
    marked := replace(query, '~', search_mark(org, search_period(newest)));
    ids := NULL;
    IF first THEN
      first := false;
      look := 400;
      LOOP
        SELECT array_agg(s.message_id), array_agg(s.received_at) INTO ids, times
        FROM search_by_age(org, marked, boxes, greatest(since, starts), ends, before_id, unseen, starred, most, look) s;
        EXIT WHEN ids IS NULL OR cardinality(ids) >= most;
        -- as many as should do, by what was found; not so many that the index is sooner done
        wider := look * most * 4 / cardinality(ids) / 3;
        EXIT WHEN wider > 6000 OR look > 400;
        look := wider;
      END LOOP;
    END IF;
    IF coalesce(cardinality(ids), 0) < most THEN
      SELECT array_agg(s.message_id), array_agg(s.received_at) INTO ids, times
      FROM search_by_index(org, marked, boxes, greatest(since, starts), ends, before_id, unseen, starred, most) s;
    END IF;
    RETURN QUERY SELECT u.id, u.at FROM unnest(ids, times) u (id, at);
    something := ids IS NOT NULL;
    most := most - coalesce(cardinality(ids), 0);
    EXIT WHEN most <= 0;
    newest := starts - interval '1 microsecond';
    IF clock_timestamp() > started + patience AND newest >= since AND newest >= oldest THEN
      message_id := NULL;
      received_at := starts;
      RETURN NEXT;
      EXIT;
    END IF;
  END LOOP;
END $$;

-- ---- roles and row-level security ------------------------------------------------------------------------------------
DO $$
DECLARE
  t text;
  f regprocedure;
BEGIN
  FOREACH t IN ARRAY ARRAY['threads', 'thread_keys', 'message_words'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['messages', 'message_words'] LOOP
    EXECUTE format('CREATE POLICY search ON %I FOR SELECT TO postroom_search USING (true)', t);
  END LOOP;
  GRANT SELECT ON message_words TO postroom_search;
  GRANT SELECT (id, org_id, received_at, seen, flagged) ON messages TO postroom_search;
  GRANT CREATE ON SCHEMA public TO postroom_search;
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p
           WHERE p.proname IN ('search_by_index', 'search_by_age', 'search_messages') AND p.pronamespace = 'public'::regnamespace LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO postroom_search', f);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
  REVOKE CREATE ON SCHEMA public FROM postroom_search;
END $$;
GRANT EXECUTE ON FUNCTION search_messages TO postroom_app;
GRANT SELECT, UPDATE, DELETE ON threads TO postroom_app;
GRANT SELECT, INSERT, UPDATE ON threads, thread_keys TO postroom_worker;
GRANT INSERT ON message_words TO postroom_worker;
