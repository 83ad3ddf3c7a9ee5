-- People: who may sign in, where they are signed in, and what happened at the door.
--
-- A fourth role of transactions: `postroom_people` signs people in and up. It sees users, memberships, sessions and the names of
-- organizations, of all tenants, and nothing else: no mail, no key, no domain.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postroom_people') THEN
    CREATE ROLE postroom_people NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
  GRANT postroom_people TO CURRENT_USER;
END $$;

-- Where somebody is signed in: a browser (the cookie's secret) or a program (the `jti` of its token).
CREATE TABLE sessions (
  id           uuid PRIMARY KEY,
  org_id       uuid NOT NULL,                              -- in which organization, just now
  user_id      uuid NOT NULL,
  kind         text NOT NULL CHECK (kind IN ('browser', 'token')),
  secret_hash  bytea NOT NULL UNIQUE,                      -- SHA-256 of 256 random bits; the secret itself is not kept
  ip           inet,
  user_agent   text CHECK (length(user_agent) <= 300),
  created_at   timestamptz NOT NULL DEFAULT now(),
  used_at      timestamptz NOT NULL DEFAULT now(),         -- to the hour
  expires_at   timestamptz NOT NULL,                       -- of a browser: moves ahead with use
  ends_at      timestamptz NOT NULL,                       -- beyond this no use moves it
  -- who leaves an organization is signed out of it
  FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_member ON sessions (org_id, user_id);
CREATE INDEX sessions_age ON sessions (expires_at);

-- What happened at the door, for 90 days. No foreign keys: it outlives whom it is about, and some events are about nobody known.
CREATE TABLE auth_events (
  id          uuid PRIMARY KEY,                            -- UUIDv7: when
  org_id      uuid,                                        -- of the session; NULL: of no organization
  user_id     uuid,
  type        text NOT NULL,
  email       text CHECK (length(email) <= 320),           -- as it was given
  ip          inet,
  user_agent  text CHECK (length(user_agent) <= 300),
  detail      jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX auth_events_org ON auth_events (org_id, id);
CREATE INDEX auth_events_user ON auth_events (user_id, id);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['sessions', 'auth_events'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['organizations', 'users', 'memberships', 'sessions', 'auth_events'] LOOP
    EXECUTE format('CREATE POLICY people ON %I TO postroom_people USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT ON auth_events TO postroom_app;               -- what happened in one organization; its sessions are not the tenant's
GRANT SELECT, DELETE ON sessions, auth_events TO postroom_worker;  -- upkeep
GRANT SELECT, INSERT ON organizations, memberships, auth_events TO postroom_people;
GRANT SELECT, INSERT, UPDATE ON users TO postroom_people;
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO postroom_people;

-- Who a session belongs to, for every request that carries one.
CREATE FUNCTION lookup_session(secret_hash bytea)
  RETURNS TABLE (id uuid, kind text, user_id uuid, org_id uuid, role text, admin boolean, stale boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT s.id, s.kind, s.user_id, s.org_id, m.role, u.admin, s.used_at < now() - interval '1 hour'
        FROM sessions s
        JOIN memberships m ON m.org_id = s.org_id AND m.user_id = s.user_id
        JOIN users u ON u.id = s.user_id
        WHERE s.secret_hash = lookup_session.secret_hash AND s.expires_at > now() AND s.ends_at > now() $$;
CREATE POLICY lookup ON sessions FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON memberships FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON sessions, memberships TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_session(bytea) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_session(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_session(bytea) TO postroom_app;
