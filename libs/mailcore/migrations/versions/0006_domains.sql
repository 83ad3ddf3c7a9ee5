-- Domains: claims, re-checks, tracking.

ALTER TABLE domains
  ADD lacking              text CHECK (lacking IN ('sending', 'receiving')), -- of a partially_* one: what is not in force
  ADD revision             integer NOT NULL DEFAULT 0,     -- changes by its owner; a look that began before one is not written
  ADD owned_since          timestamptz,                    -- since when a capability is in force
  ADD waiting_since        timestamptz,                    -- since when records are missing; NULL: none is
  ADD check_due_at         timestamptz,                    -- the next look; NULL: none until somebody asks
  ADD old_tracking         text[] NOT NULL DEFAULT '{}',   -- tracking subdomains before this one: sent mail links to them
  ADD tracking_changed_at  timestamptz,
  ADD seen                 jsonb NOT NULL DEFAULT '{}',    -- what the last look found besides the records (flow.verify)
  ADD tracking_verified    boolean NOT NULL GENERATED ALWAYS AS
      (coalesce(record_status ->> ('tracking:' || tracking_subdomain) IN ('verified', 'temporary_failure'), false)) STORED;
ALTER TABLE domains NO FORCE ROW LEVEL SECURITY;           -- who migrates owns the table, and need not be a superuser
UPDATE domains SET check_due_at = now() WHERE status <> 'not_started';
ALTER TABLE domains FORCE ROW LEVEL SECURITY;
CREATE INDEX domains_due ON domains (check_due_at) WHERE check_due_at IS NOT NULL;
-- a name is one organization's as soon as one capability is in force
DROP INDEX domains_verified;
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE status IN ('verified', 'partially_verified', 'partially_failed');
GRANT DELETE ON domains TO postroom_worker;                -- a domain that changes hands

-- mail that was received stays when its domain goes
ALTER TABLE mailboxes DROP CONSTRAINT mailboxes_domain_id_fkey;
ALTER TABLE mailboxes ADD CONSTRAINT mailboxes_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains ON DELETE SET NULL;

-- An organization that wants a domain which another has verified, and proves by a TXT record that the name is its own.
CREATE TABLE domain_claims (
  id              uuid PRIMARY KEY,
  org_id          uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id       uuid REFERENCES domains ON DELETE SET NULL, -- the claimant's own row of that name, not verified
  name            text NOT NULL,
  region          text NOT NULL,
  asked           jsonb NOT NULL,                          -- what was asked for: an identical request gets this claim
  token           text NOT NULL,                           -- of the TXT record
  status          text NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'verified', 'completed', 'blocked', 'expired', 'superseded', 'canceled', 'failed')),
  blocked_reason  text CHECK (blocked_reason IN ('grace_period', 'recent_owner_activity', 'pending_scheduled_emails')),
  failure_reason  text,
  asked_at        timestamptz,                             -- the last request to verify
  check_due_at    timestamptz,                             -- the next look, or when it expires; NULL: it has ended
  created_at      timestamptz NOT NULL DEFAULT now(),
  expires_at      timestamptz NOT NULL
);
CREATE UNIQUE INDEX domain_claims_open ON domain_claims (org_id, name) WHERE status IN ('pending', 'verified', 'blocked');
CREATE INDEX domain_claims_domain ON domain_claims (domain_id, id);
CREATE INDEX domain_claims_name ON domain_claims (name) WHERE status IN ('pending', 'verified', 'blocked');
CREATE INDEX domain_claims_due ON domain_claims (check_due_at) WHERE check_due_at IS NOT NULL;
ALTER TABLE domain_claims ENABLE ROW LEVEL SECURITY;
ALTER TABLE domain_claims FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON domain_claims TO postroom_app USING (org_id = (SELECT current_org()))
  WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON domain_claims TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON domain_claims TO postroom_app;
GRANT SELECT, UPDATE ON domain_claims TO postroom_worker;

CREATE OR REPLACE FUNCTION lookup_receiving_domain(name text)
  RETURNS TABLE (org_id uuid, domain_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.org_id, d.id FROM domains d
        WHERE d.name = lookup_receiving_domain.name AND d.receiving
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'sending') $$;

-- Whether a domain name is already another organization's.
CREATE OR REPLACE FUNCTION lookup_domain_taken(name text, org uuid)
  RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT EXISTS (SELECT FROM domains d
        WHERE d.name = lookup_domain_taken.name AND d.status IN ('verified', 'partially_verified', 'partially_failed')
          AND d.org_id <> org) $$;

-- The sending domain of that name, whoever has it: for the installation's sandbox, which all may send from.
CREATE FUNCTION lookup_sandbox_domain(name text)
  RETURNS uuid
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.id FROM domains d
        WHERE d.name = lookup_sandbox_domain.name AND d.sending
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'receiving') $$;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_sandbox_domain(text) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_sandbox_domain(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_sandbox_domain(text) TO postroom_app, postroom_door, postroom_worker;
