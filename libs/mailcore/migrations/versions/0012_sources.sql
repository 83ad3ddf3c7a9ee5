-- Sources: the addresses that mail leaves from, in pools, and the warm-up of addresses and of sending domains.
--
-- No tenant in these tables: they are the installation's. Runners and the operator's routes use them (role worker); the app role,
-- which acts for one organization, sees none of them.
CREATE TABLE pools (
  id           uuid PRIMARY KEY,
  name         text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
  overflow     uuid,                                       -- the way out that takes what has no room today; NULL: it waits
  recalled_at  timestamptz,                                -- when rows that waited for room were last made due
  created_at   timestamptz NOT NULL DEFAULT now()
);

-- Whose mail a pool carries: a sending domain's before everybody's.
CREATE TABLE pool_serves (
  domain   text NOT NULL CHECK (length(domain) <= 253),    -- A-labels, lower case; empty: every domain
  class    smallint NOT NULL CHECK (class IN (0, 1)),      -- as of lanes: 0 transactional, 1 broadcast
  pool_id  uuid NOT NULL REFERENCES pools ON DELETE CASCADE,
  PRIMARY KEY (domain, class)
);
CREATE INDEX pool_serves_pool ON pool_serves (pool_id);

CREATE TABLE sources (
  id          uuid PRIMARY KEY,
  pool_id     uuid NOT NULL REFERENCES pools,
  ipv4        inet UNIQUE CHECK (family(ipv4) = 4 AND masklen(ipv4) = 32), -- as the world sees it
  ipv6        inet UNIQUE CHECK (family(ipv6) = 6 AND masklen(ipv6) = 128),
  local_ipv4  inet CHECK (family(local_ipv4) = 4),         -- what is bound, where a NAT stands between
  local_ipv6  inet CHECK (family(local_ipv6) = 6),
  ehlo_name   text NOT NULL CHECK (length(ehlo_name) BETWEEN 1 AND 255),
  paused_at   timestamptz,                                 -- by the operator
  created_at  timestamptz NOT NULL DEFAULT now(),
  CHECK (ipv4 IS NOT NULL OR ipv6 IS NOT NULL)
);
CREATE INDEX sources_pool ON sources (pool_id);

-- Which host can bind a source: each process looks for itself.
CREATE TABLE source_hosts (
  source_id  uuid NOT NULL REFERENCES sources ON DELETE CASCADE,
  host       text NOT NULL,
  usable     boolean NOT NULL,                             -- it can bind one of the addresses
  error      text,                                         -- why it cannot bind the others
  seen_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source_id, host)
);

-- One for every source, and one for each sending domain that the operator warms up.
CREATE TABLE warmups (
  id            uuid PRIMARY KEY,
  source_id     uuid UNIQUE REFERENCES sources ON DELETE CASCADE,
  domain        text UNIQUE CHECK (length(domain) BETWEEN 1 AND 253),
  state         text NOT NULL CHECK (state IN ('warming', 'paused', 'warm')),
  schedule      integer[] NOT NULL CHECK (cardinality(schedule) BETWEEN 1 AND 100), -- mails a day, by step
  step          smallint NOT NULL DEFAULT 0,               -- index of the schedule, from 0
  day           date,                                      -- the last one that was begun
  pauses        smallint NOT NULL DEFAULT 0,               -- for bad signals, since a step was last taken
  paused_at     timestamptz,
  paused_until  timestamptz,                               -- NULL while paused: until the operator resumes it
  why           text NOT NULL DEFAULT '',                  -- the last decision, in words
  recalled_at   timestamptz,
  created_at    timestamptz NOT NULL DEFAULT now(),
  CHECK (num_nonnulls(source_id, domain) = 1)
);

-- What it may send on a day (UTC), and what became of that.
CREATE TABLE warmup_days (
  warmup_id   uuid NOT NULL REFERENCES warmups ON DELETE CASCADE,
  day         date NOT NULL,
  cap         integer,                                     -- NULL: none
  leased      integer NOT NULL DEFAULT 0,                  -- handed out to processes, used or not: never more than the cap
  attempts    integer NOT NULL DEFAULT 0,
  delivered   integer NOT NULL DEFAULT 0,
  deferred    integer NOT NULL DEFAULT 0,                  -- by a peer that wants less of us
  blocked     integer NOT NULL DEFAULT 0,                  -- refused because of the address or the domain itself
  bounced     integer NOT NULL DEFAULT 0,                  -- no such recipient
  complaints  integer NOT NULL DEFAULT 0,
  last_words  text,                                        -- of the peer that blocked or deferred last
  excused     jsonb NOT NULL DEFAULT '{}',                 -- counts when it was resumed within the day: judged is what came after
  PRIMARY KEY (warmup_id, day)
) WITH (fillfactor = 70);

CREATE TABLE warmup_decisions (
  warmup_id  uuid NOT NULL REFERENCES warmups ON DELETE CASCADE,
  id         uuid NOT NULL,                                -- UUIDv7: when
  what       text NOT NULL CHECK (what IN ('began', 'grew', 'held', 'paused', 'resumed', 'warm', 'changed')),
  step       smallint NOT NULL,
  why        text NOT NULL,
  PRIMARY KEY (warmup_id, id)
);

-- A row for which no source has room today: of which pool or warm-up it waits for room, and its turn when there is some
-- (0 transactional, 1 readers, 2 the others, 3 not called: due by itself).
ALTER TABLE queue ADD waits_for uuid, ADD turn smallint;
CREATE INDEX queue_waits ON queue (waits_for, turn, org_id, email_id) WHERE waits_for IS NOT NULL AND worker IS NULL;

-- complaints are few and asked for by day; who stores another event pays nothing for this one
CREATE INDEX events_complained ON events (id) WHERE type = 'email.complained';

GRANT SELECT, INSERT, UPDATE, DELETE ON pools, pool_serves, sources, source_hosts, warmups, warmup_days, warmup_decisions
  TO postroom_worker;
