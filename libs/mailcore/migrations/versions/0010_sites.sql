-- Sites as the operator shapes them, who shares their limits, what is held, and what the operator ordered of waiting mail.

ALTER TABLE sites
  ADD COLUMN limits jsonb NOT NULL DEFAULT '{}',           -- the operator's own (flow/shaping.py): connections, per_minute, …
  ADD COLUMN rules jsonb NOT NULL DEFAULT '[]',            -- the operator's own, asked before those of the files
  ADD COLUMN replies jsonb NOT NULL DEFAULT '[]',          -- what it said lately and was no 250, newest first, 10 at most:
                                                           -- [{at, code, enhanced, text, count}]
  ADD COLUMN heard_at timestamptz,                         -- when it last took a mail
  ADD COLUMN slow_until timestamptz,                       -- a rule halves its connections and rate until then
  ADD COLUMN slow_rule text;

-- A process's share of a site's connections; of its rate it has the same part. The sum over workers never exceeds the site's limit:
-- grown under the site's row lock, shrunk when the process has closed what it gives back, gone with the worker's burial.
CREATE TABLE site_shares (
  site_id      bigint NOT NULL REFERENCES sites ON DELETE CASCADE,
  worker       bigint NOT NULL REFERENCES workers ON DELETE CASCADE,
  connections  integer NOT NULL CHECK (connections >= 0),
  bears        integer NOT NULL DEFAULT 0,                 -- of those, how many it uses: what the site's answers allow
  open         integer NOT NULL DEFAULT 0,
  rate         real NOT NULL DEFAULT 0,                    -- mails a second, lately
  renewed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (site_id, worker)
) WITH (fillfactor = 50);
CREATE INDEX site_shares_worker ON site_shares (worker);

-- What does not leave for now: a site, an organization, an organization's mail to a site, or (neither) everything.
CREATE TABLE holds (
  id          uuid PRIMARY KEY,
  site_id     bigint REFERENCES sites ON DELETE CASCADE,   -- NULL: every site
  org_id      uuid REFERENCES organizations ON DELETE CASCADE,  -- NULL: everybody's mail
  until       timestamptz,                                 -- NULL: until the operator resumes
  origin      text NOT NULL CHECK (origin IN ('operator', 'rule')),
  reason      text NOT NULL,                               -- the operator's words, or the rule and what the site said
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE NULLS NOT DISTINCT (site_id, org_id)
);
CREATE INDEX holds_org ON holds (org_id);
ALTER TABLE holds ENABLE ROW LEVEL SECURITY;
ALTER TABLE holds FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON holds TO postroom_app USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON holds TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT ON holds TO postroom_app;

-- What the operator ordered, who, and what came of it. Orders about rows of the queue are carried out by outbound, in batches.
CREATE TABLE queue_orders (
  id          uuid PRIMARY KEY,
  verb        text NOT NULL CHECK (verb IN ('hold', 'resume', 'flush', 'reroute', 'bounce', 'purge')),
  query       jsonb NOT NULL,                              -- which mail: site_id, org_id, domain, class, from_domain, …
  detail      jsonb NOT NULL DEFAULT '{}',                 -- what the verb adds: until, to
  reason      text NOT NULL DEFAULT '',
  ordered_by  text NOT NULL,                               -- 'api key <id>' or 'user <id>'
  state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
  touched     bigint NOT NULL DEFAULT 0,                   -- deliveries so far
  error       text,
  created_at  timestamptz NOT NULL DEFAULT now(),
  done_at     timestamptz
);
CREATE INDEX queue_orders_waiting ON queue_orders (created_at) WHERE state = 'waiting';

GRANT SELECT, INSERT, UPDATE, DELETE ON site_shares, holds TO postroom_worker;
GRANT SELECT, INSERT, UPDATE ON queue_orders TO postroom_worker;
