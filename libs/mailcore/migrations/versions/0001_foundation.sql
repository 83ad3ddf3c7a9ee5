-- Postroom's tables. Reading order: roles, tenancy, sending, events and webhooks, receiving, mirrored mail, workers,
-- lookups, partitions, row-level security.
--
-- Postgres 16 or later, no extension. History (emails, deliveries, attempts, events, webhook deliveries and attempts,
-- arrivals, logs) is partitioned by UUIDv7 month; what is waiting (queue, webhook_queue, arrival_queue) is not, and its rows go away when final.
-- No foreign key points into a partitioned table.

-- ---- roles ---------------------------------------------------------------------------------------------------------
-- The login that services use (made by `migrate` from DATABASE__URL) inherits nothing: every transaction takes one of
-- these for its own length (`SET LOCAL ROLE`), so that a forgotten scope can read and write nothing at all.
DO $$
DECLARE role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['postroom_app', 'postroom_door', 'postroom_worker', 'postroom_lookup'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', role);
    END IF;
    -- who migrates may not be a superuser: to give things to a role it must be a member of it
    EXECUTE format('GRANT %I TO CURRENT_USER', role);
  END LOOP;
END $$;

-- ---- one row about this installation -------------------------------------------------------------------------------
CREATE TABLE installation (
  one         boolean PRIMARY KEY DEFAULT true CHECK (one),
  id          uuid NOT NULL DEFAULT gen_random_uuid(),
  key_check   bytea,             -- a known text sealed with POSTROOM_ENCRYPTION_KEY: a wrong key is found at start
  created_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO installation DEFAULT VALUES;

-- ---- tenancy -------------------------------------------------------------------------------------------------------
CREATE TABLE organizations (
  id          uuid PRIMARY KEY,
  name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
  id             uuid PRIMARY KEY,
  email          text NOT NULL,
  name           text NOT NULL DEFAULT '',
  password_hash  text,
  admin          boolean NOT NULL DEFAULT false,
  created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE memberships (
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  role        text NOT NULL CHECK (role IN ('owner', 'admin', 'member')),
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE domains (
  id                  uuid PRIMARY KEY,
  org_id              uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  name                text NOT NULL,                       -- A-labels, lower case
  status              text NOT NULL DEFAULT 'not_started'
                      CHECK (status IN ('not_started', 'pending', 'verified', 'partially_verified', 'partially_failed',
                                        'failed', 'temporary_failure')),
  region              text NOT NULL DEFAULT 'us-east-1',
  sending             boolean NOT NULL DEFAULT true,
  receiving           boolean NOT NULL DEFAULT true,
  custom_return_path  text NOT NULL DEFAULT 'send',
  open_tracking       boolean NOT NULL DEFAULT false,
  click_tracking      boolean NOT NULL DEFAULT false,
  tracking_subdomain  text,
  tls                 text NOT NULL DEFAULT 'opportunistic' CHECK (tls IN ('opportunistic', 'enforced')),
  record_status       jsonb NOT NULL DEFAULT '{}',         -- record kind -> status at the last check
  checked_at          timestamptz,
  verified_at         timestamptz,
  created_at          timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, name)
);
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE status = 'verified';
CREATE INDEX domains_org ON domains (org_id, id);

CREATE TABLE dkim_keys (
  id              uuid PRIMARY KEY,
  org_id          uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id       uuid NOT NULL REFERENCES domains ON DELETE CASCADE,
  selector        text NOT NULL,
  algorithm       text NOT NULL CHECK (algorithm IN ('rsa-sha256', 'ed25519-sha256')),
  private_sealed  bytea NOT NULL,                          -- PKCS #8 DER under kit.seal, purpose 'dkim'
  public_txt      text NOT NULL,                           -- the TXT value to publish
  active          boolean NOT NULL DEFAULT true,
  created_at      timestamptz NOT NULL DEFAULT now(),
  UNIQUE (domain_id, selector)
);

CREATE TABLE api_keys (
  id            uuid PRIMARY KEY,
  org_id        uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  name          text NOT NULL,
  token_hash    bytea NOT NULL UNIQUE,                     -- SHA-256 of a token of 190 random bits
  permission    text NOT NULL DEFAULT 'full_access' CHECK (permission IN ('full_access', 'sending_access')),
  domain_id     uuid REFERENCES domains ON DELETE CASCADE, -- only with sending_access
  created_at    timestamptz NOT NULL DEFAULT now(),
  last_used_at  timestamptz
);
CREATE INDEX api_keys_org ON api_keys (org_id, id);

-- ---- sending -------------------------------------------------------------------------------------------------------
-- A site is where mail goes: an MX host set, a smart host, the catcher. Limits hang on it.
CREATE TABLE sites (
  id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key              text NOT NULL UNIQUE,                   -- 'mx:a.example,b.example' or 'domain:…' until its MX is known
  max_connections  integer NOT NULL DEFAULT 20 CHECK (max_connections > 0),
  suspended_until  timestamptz,                            -- every next hop failed: no attempts before this
  failures         integer NOT NULL DEFAULT 0,             -- connections that failed in a row
  last_reply       text,
  created_at       timestamptz NOT NULL DEFAULT now()
);
-- Which site a recipient domain belongs to is read when rows are claimed: queued rows never change when it becomes known.
CREATE TABLE recipient_domains (
  domain       text PRIMARY KEY,
  site_id      bigint NOT NULL REFERENCES sites,
  resolved_at  timestamptz                                 -- NULL: never resolved; the site is a stand-in of its own
);
CREATE INDEX recipient_domains_site ON recipient_domains (site_id);
-- A lane carries the rows: recipient domain × class × organization.
CREATE TABLE lanes (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  org_id  uuid NOT NULL,
  domain  text NOT NULL REFERENCES recipient_domains,
  class   smallint NOT NULL DEFAULT 0,                     -- 0 transactional, 1 broadcast
  UNIQUE (org_id, domain, class)
);
CREATE INDEX lanes_domain ON lanes (domain);

CREATE TABLE emails (
  id            uuid NOT NULL,
  org_id        uuid NOT NULL,
  domain_id     uuid NOT NULL,
  class         smallint NOT NULL DEFAULT 0,
  from_         text NOT NULL,                             -- as given: `a@b.c` or `Name <a@b.c>`
  to_           text[] NOT NULL,
  cc            text[],
  bcc           text[],
  reply_to      text[],
  subject       text NOT NULL,
  html          text,
  text_         text,
  headers       jsonb,                                     -- the caller's own, name -> value
  tags          jsonb,                                     -- [{name, value}]
  attachments   jsonb,                                     -- [{id, filename, content_type, content_id, disposition, size, blob | content}]
  body_blob     text,                                      -- key of a blob with {html, text} where they are large
  body_bytes    integer,                                   -- its size
  message_id    text NOT NULL,                             -- with angle brackets, fixed here for every retry
  scheduled_at  timestamptz,
  created_at    timestamptz NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX emails_org ON emails (org_id, id);

-- One row a recipient; n counts To, Cc, Bcc from 0.
CREATE TABLE deliveries (
  email_id            uuid NOT NULL,
  n                   smallint NOT NULL,
  org_id              uuid NOT NULL,
  recipient           text NOT NULL,
  state               text NOT NULL DEFAULT 'queued'
                      CHECK (state IN ('scheduled', 'queued', 'delivered', 'bounced', 'failed', 'suppressed', 'cancelled',
                                       'expired', 'quarantined')),
  possible_duplicate  boolean NOT NULL DEFAULT false,
  last_event          text NOT NULL DEFAULT 'queued',
  last_event_at       timestamptz NOT NULL,
  PRIMARY KEY (email_id, n)
) PARTITION BY RANGE (email_id);

-- What is waiting. A leased row has worker set; the row is deleted when its delivery is final.
CREATE TABLE queue (
  email_id            uuid NOT NULL,
  n                   smallint NOT NULL,
  org_id              uuid NOT NULL,
  lane_id             bigint NOT NULL,
  due_at              timestamptz NOT NULL,
  attempt             smallint NOT NULL DEFAULT 0,         -- attempts begun
  crashes             smallint NOT NULL DEFAULT 0,         -- attempts that ended with their worker's death
  worker              bigint,                              -- the lease
  leased_at           timestamptz,
  dot_sent            boolean NOT NULL DEFAULT false,      -- this attempt's final dot may have left
  possible_duplicate  boolean NOT NULL DEFAULT false,      -- an earlier attempt may have delivered
  PRIMARY KEY (email_id, n)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
-- who waits, and nobody else: a leased row leaves this index, a row that saw a crash is looked for in the next one
CREATE INDEX queue_due ON queue (lane_id, due_at) WHERE worker IS NULL AND crashes = 0;
CREATE INDEX queue_suspects ON queue (due_at) WHERE worker IS NULL AND crashes > 0;
CREATE INDEX queue_worker ON queue (worker) WHERE worker IS NOT NULL;

CREATE TABLE attempts (
  email_id            uuid NOT NULL,
  n                   smallint NOT NULL,
  attempt             smallint NOT NULL,
  org_id              uuid NOT NULL,
  at                  timestamptz NOT NULL,
  outcome             text NOT NULL,                       -- delivered, deferred, bounced, failed, lost (its worker died)
  site                text,
  mx_host             text,
  mx_ip               text,
  source_ip           text,
  tls                 text,
  code                smallint,
  enhanced_code       text,
  reply               text,
  rule                text,
  possible_duplicate  boolean NOT NULL DEFAULT false,
  conversation        jsonb,                               -- [[at, 'said'|'heard', line]]
  PRIMARY KEY (email_id, n, attempt)
) PARTITION BY RANGE (email_id);

-- Responses to replay: same key and same fingerprint get the same answer for 24 hours.
CREATE TABLE idempotency_keys (
  org_id       uuid NOT NULL,
  endpoint     text NOT NULL,
  key          text NOT NULL,
  fingerprint  bytea NOT NULL,                             -- SHA-256 of the request's meaning
  response     bytea NOT NULL,                             -- JSON body of the 200
  created_at   timestamptz NOT NULL,
  PRIMARY KEY (org_id, endpoint, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- ---- events and webhooks -------------------------------------------------------------------------------------------
CREATE TABLE events (
  id          uuid NOT NULL,
  org_id      uuid NOT NULL,
  type        text NOT NULL,
  object_id   uuid NOT NULL,                               -- the email, arrival, domain … it is about
  recipients  text[],                                      -- whom it concerns, for events of an email
  detail      jsonb,                                       -- what the type adds (bounce, …); the rest is read from the object
  created_at  timestamptz NOT NULL,
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE TABLE webhooks (
  id             uuid PRIMARY KEY,
  org_id         uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  endpoint       text NOT NULL,
  events         text[] NOT NULL,
  status         text NOT NULL DEFAULT 'enabled' CHECK (status IN ('enabled', 'disabled')),
  secret_sealed  bytea NOT NULL,                           -- 24 bytes under kit.seal, purpose 'webhook'
  created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhooks_org ON webhooks (org_id, id);

CREATE TABLE webhook_deliveries (
  event_id    uuid NOT NULL,
  webhook_id  uuid NOT NULL,
  org_id      uuid NOT NULL,
  state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'attempting', 'success', 'failed')),
  updated_at  timestamptz NOT NULL,
  PRIMARY KEY (event_id, webhook_id)
) PARTITION BY RANGE (event_id);

CREATE TABLE webhook_queue (
  event_id    uuid NOT NULL,
  webhook_id  uuid NOT NULL,
  org_id      uuid NOT NULL,
  due_at      timestamptz NOT NULL,
  attempt     smallint NOT NULL DEFAULT 0,
  worker      bigint,
  leased_at   timestamptz,
  PRIMARY KEY (event_id, webhook_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX webhook_queue_due ON webhook_queue (webhook_id, due_at);
CREATE INDEX webhook_queue_worker ON webhook_queue (worker) WHERE worker IS NOT NULL;

CREATE TABLE webhook_attempts (
  event_id     uuid NOT NULL,
  webhook_id   uuid NOT NULL,
  attempt      smallint NOT NULL,
  org_id       uuid NOT NULL,
  id           uuid NOT NULL,
  at           timestamptz NOT NULL,
  http_status  integer,                                    -- NULL: no answer
  response     text,                                       -- first 4 KiB of the body, or what went wrong
  PRIMARY KEY (event_id, webhook_id, attempt)
) PARTITION BY RANGE (event_id);

-- ---- receiving -----------------------------------------------------------------------------------------------------
CREATE TABLE arrivals (
  id            uuid NOT NULL,
  org_id        uuid NOT NULL,
  door          text NOT NULL,                             -- smtp, resend, cloudflare, imap
  source        text NOT NULL,                             -- who handed it over: address of the peer, id of the endpoint
  source_id     text,                                      -- its own id there
  mail_from     text NOT NULL,
  rcpt_to       text[] NOT NULL,
  facts         jsonb NOT NULL DEFAULT '{}',               -- helo, tls, peer name …
  size          bigint NOT NULL,
  sha256        bytea NOT NULL,
  raw           bytea,                                     -- up to 64 KiB; beyond that:
  raw_blob      text,
  state         text NOT NULL DEFAULT 'received' CHECK (state IN ('received', 'routed', 'quarantined')),
  created_at    timestamptz NOT NULL,
  routed_at     timestamptz,
  summary       jsonb,                                     -- what routing read: from, to, cc, subject, message_id, attachments
  decisions     jsonb NOT NULL DEFAULT '[]',               -- what was decided and why, in order
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX arrivals_org ON arrivals (org_id, id);

CREATE TABLE arrival_queue (
  arrival_id  uuid PRIMARY KEY,
  org_id      uuid NOT NULL,
  due_at      timestamptz NOT NULL,
  attempt     smallint NOT NULL DEFAULT 0,
  crashes     smallint NOT NULL DEFAULT 0,
  worker      bigint,
  leased_at   timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX arrival_queue_due ON arrival_queue (due_at);
CREATE INDEX arrival_queue_worker ON arrival_queue (worker) WHERE worker IS NOT NULL;

-- What has been taken already: SHA-256 of door, source id or envelope and content. For SMTP a key counts for an hour.
CREATE TABLE arrival_keys (
  digest      bytea PRIMARY KEY,
  org_id      uuid NOT NULL,
  arrival_id  uuid NOT NULL,
  at          timestamptz NOT NULL
);
CREATE INDEX arrival_keys_age ON arrival_keys (at);

CREATE TABLE mailboxes (
  id          uuid PRIMARY KEY,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  address     text NOT NULL,                               -- lower case; of an account: its login
  domain_id   uuid REFERENCES domains ON DELETE CASCADE,
  account_id  uuid,
  created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX mailboxes_address ON mailboxes (org_id, address) WHERE account_id IS NULL;
CREATE UNIQUE INDEX mailboxes_account ON mailboxes (account_id) WHERE account_id IS NOT NULL;

-- ---- mirrored mail -------------------------------------------------------------------------------------------------
CREATE TABLE accounts (
  id               uuid PRIMARY KEY,
  org_id           uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  user_id          uuid REFERENCES users ON DELETE CASCADE,
  host             text NOT NULL,
  port             integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
  security         text NOT NULL CHECK (security IN ('tls', 'starttls', 'none')),
  username         text NOT NULL,
  password_sealed  bytea NOT NULL,                         -- under kit.seal, purpose 'imap'
  state            text NOT NULL DEFAULT 'connecting' CHECK (state IN ('connecting', 'syncing', 'ok', 'error', 'disabled')),
  error            text,
  due_at           timestamptz NOT NULL DEFAULT now(),
  failures         integer NOT NULL DEFAULT 0,
  worker           bigint,
  leased_at        timestamptz,
  synced_at        timestamptz,
  created_at       timestamptz NOT NULL DEFAULT now(),
  UNIQUE (org_id, host, port, username)
);
CREATE INDEX accounts_due ON accounts (due_at);
ALTER TABLE mailboxes ADD FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE;

CREATE TABLE folders (
  id           uuid PRIMARY KEY,
  org_id       uuid NOT NULL,
  account_id   uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
  name         text NOT NULL,
  uidvalidity  bigint NOT NULL,
  watermark    bigint NOT NULL DEFAULT 0,                  -- the highest UID mirrored; everything up to it is here
  UNIQUE (account_id, name)
);

-- A mail in a mailbox: by routing (arrival_id) or mirrored from an IMAP folder (folder_id, uidvalidity, uid).
CREATE TABLE messages (
  id           uuid PRIMARY KEY,
  org_id       uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  mailbox_id   uuid NOT NULL REFERENCES mailboxes ON DELETE CASCADE,
  arrival_id   uuid,
  folder_id    uuid REFERENCES folders ON DELETE CASCADE,
  uidvalidity  bigint,
  uid          bigint,
  message_id   text,
  from_        text,
  to_          text[] NOT NULL DEFAULT '{}',
  cc           text[] NOT NULL DEFAULT '{}',
  subject      text,
  date         timestamptz,                                -- of the Date header, where it can be read
  size         bigint NOT NULL,
  flags        text[] NOT NULL DEFAULT '{}',
  received_at  timestamptz NOT NULL
);
CREATE INDEX messages_org ON messages (org_id, id);
CREATE INDEX messages_mailbox ON messages (mailbox_id, id);
CREATE UNIQUE INDEX messages_mirrored ON messages (folder_id, uidvalidity, uid) WHERE folder_id IS NOT NULL;
CREATE UNIQUE INDEX messages_routed ON messages (mailbox_id, arrival_id) WHERE arrival_id IS NOT NULL;

-- ---- workers -------------------------------------------------------------------------------------------------------
-- One row a running worker; its heartbeat is by the database's clock. Leases of a dead worker are taken back.
CREATE TABLE workers (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  service       text NOT NULL,
  host          text NOT NULL,
  pid           integer NOT NULL,
  started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- ---- lookups: what must be known before the tenant is ---------------------------------------------------------------
CREATE FUNCTION lookup_api_key(digest bytea)
  RETURNS TABLE (id uuid, org_id uuid, permission text, domain_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT k.id, k.org_id, k.permission, k.domain_id FROM api_keys k WHERE k.token_hash = digest $$;

CREATE FUNCTION lookup_receiving_domain(name text)
  RETURNS TABLE (org_id uuid, domain_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.org_id, d.id FROM domains d
        WHERE d.name = lookup_receiving_domain.name AND d.status = 'verified' AND d.receiving $$;

CREATE FUNCTION lookup_login(email text)
  RETURNS TABLE (user_id uuid, password_hash text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT u.id, u.password_hash FROM users u WHERE lower(u.email) = lower(lookup_login.email) $$;

-- Which endpoints want a type of event: used in the transaction that raises the event, for several tenants at once.
CREATE FUNCTION lookup_endpoints(orgs uuid[])
  RETURNS TABLE (webhook_id uuid, org_id uuid, events text[])
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT w.id, w.org_id, w.events FROM webhooks w WHERE w.org_id = ANY (orgs) AND w.status = 'enabled' $$;

-- Whether a domain name is already verified by another organization.
CREATE FUNCTION lookup_domain_taken(name text, org uuid)
  RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT EXISTS (SELECT FROM domains d
        WHERE d.name = lookup_domain_taken.name AND d.status = 'verified' AND d.org_id <> org) $$;

-- ---- partitions ----------------------------------------------------------------------------------------------------
CREATE FUNCTION month_bound(month date) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM month::timestamp AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0')
          || repeat('0', 20))::uuid
$$;

-- Makes the partitions of this month and the `ahead` next ones, where they do not exist. Returns the names made.
CREATE FUNCTION make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  parent text;
  month date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
  child text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('postroom.make_partitions'));
  FOR step IN -1 .. ahead LOOP
    FOREACH parent IN ARRAY ARRAY['emails', 'deliveries', 'attempts', 'events', 'webhook_deliveries', 'webhook_attempts',
                                  'arrivals'] LOOP
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
ALTER TABLE emails ALTER html SET STORAGE EXTERNAL, ALTER text_ SET STORAGE EXTERNAL;
ALTER TABLE arrivals ALTER raw SET STORAGE EXTERNAL;
SELECT make_partitions();

-- ---- row-level security --------------------------------------------------------------------------------------------
-- app: one organization, set per transaction. Unset means no rows. door: inserts for any tenant, reads none.
-- worker: what the runners claim and settle. lookup: owns the lookup functions and reads what they need.
CREATE FUNCTION current_org() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT NULLIF(current_setting('app.org_id', true), '')::uuid $$;

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['memberships', 'domains', 'dkim_keys', 'api_keys', 'lanes', 'emails', 'deliveries', 'queue',
      'attempts', 'idempotency_keys', 'events', 'webhooks', 'webhook_deliveries', 'webhook_queue', 'webhook_attempts',
      'arrivals', 'arrival_queue', 'arrival_keys', 'mailboxes', 'accounts', 'folders', 'messages'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO postroom_app', t);
  END LOOP;

  ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
  ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
  CREATE POLICY tenant ON organizations TO postroom_app USING (id = (SELECT current_org()));
  GRANT SELECT, UPDATE ON organizations TO postroom_app;
  ALTER TABLE users ENABLE ROW LEVEL SECURITY;
  ALTER TABLE users FORCE ROW LEVEL SECURITY;
  CREATE POLICY tenant ON users TO postroom_app
    USING (EXISTS (SELECT FROM memberships m WHERE m.user_id = users.id AND m.org_id = (SELECT current_org())));
  GRANT SELECT ON users TO postroom_app;

  -- the doors
  FOREACH t IN ARRAY ARRAY['emails', 'deliveries', 'queue', 'events', 'webhook_deliveries', 'webhook_queue', 'arrivals',
      'arrival_queue', 'arrival_keys', 'idempotency_keys', 'lanes'] LOOP
    EXECUTE format('CREATE POLICY door ON %I FOR INSERT TO postroom_door WITH CHECK (true)', t);
    EXECUTE format('GRANT INSERT ON %I TO postroom_door', t);
  END LOOP;
  -- a door must see the key it collides with, and the lane it puts rows in; both only by their whole key
  CREATE POLICY door_read ON idempotency_keys FOR SELECT TO postroom_door USING (true);
  CREATE POLICY door_read ON arrival_keys FOR SELECT TO postroom_door USING (true);
  CREATE POLICY door_again ON arrival_keys FOR UPDATE TO postroom_door USING (true) WITH CHECK (true);
  -- a key older than a day is as good as new
  CREATE POLICY door_again ON idempotency_keys FOR UPDATE TO postroom_door USING (true) WITH CHECK (true);
  CREATE POLICY door_read ON lanes FOR SELECT TO postroom_door USING (true);
  GRANT SELECT ON idempotency_keys, arrival_keys, lanes TO postroom_door;
  GRANT UPDATE ON arrival_keys, idempotency_keys TO postroom_door;

  -- the runners
  FOREACH t IN ARRAY ARRAY['emails', 'deliveries', 'queue', 'attempts', 'events', 'lanes', 'domains', 'dkim_keys',
      'webhooks', 'webhook_deliveries', 'webhook_queue', 'webhook_attempts', 'arrivals', 'arrival_queue', 'arrival_keys',
      'idempotency_keys', 'mailboxes', 'accounts', 'folders', 'messages'] LOOP
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
  GRANT SELECT ON domains, dkim_keys, webhooks, organizations TO postroom_worker;
  GRANT SELECT, INSERT ON emails, lanes TO postroom_worker;           -- forwards are submitted in the router's transaction
  GRANT SELECT, INSERT ON attempts, events, webhook_attempts, mailboxes TO postroom_worker;  -- written once
  GRANT SELECT, INSERT, UPDATE ON deliveries, webhook_deliveries, folders TO postroom_worker;
  GRANT SELECT, INSERT, DELETE ON messages TO postroom_worker;        -- a new UIDVALIDITY voids what was mirrored
  GRANT SELECT, UPDATE ON arrivals, accounts TO postroom_worker;      -- made by a door and by their owner
  GRANT UPDATE ON domains TO postroom_worker;
  GRANT SELECT, INSERT, UPDATE, DELETE ON queue, webhook_queue, arrival_queue TO postroom_worker;
  GRANT SELECT, DELETE ON arrival_keys, idempotency_keys TO postroom_worker;
  CREATE POLICY worker ON organizations FOR SELECT TO postroom_worker USING (true);
END $$;

-- no tenant in these: sites and workers are the installation's
GRANT SELECT, INSERT ON sites, recipient_domains TO postroom_door;
GRANT SELECT, INSERT, UPDATE ON sites, recipient_domains TO postroom_worker;
GRANT SELECT ON sites, recipient_domains TO postroom_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers TO postroom_worker;
GRANT SELECT ON installation TO postroom_app, postroom_door, postroom_worker;

-- the lookups
CREATE POLICY lookup ON api_keys FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON domains FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON users FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON webhooks FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON api_keys, domains, users, webhooks TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
DO $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.proname LIKE 'lookup\_%' AND p.pronamespace = 'public'::regnamespace LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO postroom_lookup', f);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO postroom_app, postroom_door, postroom_worker', f);
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION make_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions(integer) TO postroom_worker;
