-- DKIM keys that change: made or brought, seen published, used, kept published for a while, retired.

ALTER TABLE dkim_keys
  ADD state         text NOT NULL DEFAULT 'active' CHECK (state IN ('pending', 'published', 'active', 'retiring', 'retired')),
  ADD origin        text NOT NULL DEFAULT 'made' CHECK (origin IN ('made', 'imported')),
  ADD seen          boolean,                               -- whether the last look found the record; NULL: none yet
  ADD seen_at       timestamptz,
  ADD published_at  timestamptz,                           -- since when the record is there, of one that is to be used next
  ADD active_since  timestamptz,                           -- NULL: since created_at
  ADD keep_until    timestamptz,                           -- of one that signs no more: its record stays so long
  ADD retired_at    timestamptz;
ALTER TABLE dkim_keys NO FORCE ROW LEVEL SECURITY;         -- who migrates owns the table, and need not be a superuser
UPDATE dkim_keys SET state = 'retired', retired_at = now() WHERE NOT active;
ALTER TABLE dkim_keys FORCE ROW LEVEL SECURITY;
ALTER TABLE dkim_keys DROP active;
ALTER TABLE dkim_keys
  ADD active        boolean NOT NULL GENERATED ALWAYS AS (state = 'active') STORED, -- it signs
  ALTER private_sealed DROP NOT NULL,                      -- forgotten when the key is retired
  ADD CHECK (private_sealed IS NOT NULL OR state = 'retired');
-- one of each algorithm signs, so that a mail never costs more than two signatures; and one of each is next
CREATE UNIQUE INDEX dkim_keys_active ON dkim_keys (domain_id, algorithm) WHERE state = 'active';
CREATE UNIQUE INDEX dkim_keys_next ON dkim_keys (domain_id, algorithm) WHERE state IN ('pending', 'published');
GRANT INSERT, UPDATE, DELETE ON dkim_keys TO postroom_worker; -- keys change when time has come, with nobody there

ALTER TABLE domains
  ADD dkim_rotate_days  integer CHECK (dkim_rotate_days BETWEEN 30 AND 1000), -- NULL: keys change when somebody asks
  ADD dkim_due_at       timestamptz;                       -- the next look at its keys; NULL: nothing waits
CREATE INDEX domains_dkim_due ON domains (dkim_due_at) WHERE dkim_due_at IS NOT NULL;
