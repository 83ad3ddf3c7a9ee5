-- Takes back 0006_domains.sql.
DROP FUNCTION lookup_sandbox_domain(text);
CREATE OR REPLACE FUNCTION lookup_receiving_domain(name text)
  RETURNS TABLE (org_id uuid, domain_id uuid)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.org_id, d.id FROM domains d
        WHERE d.name = lookup_receiving_domain.name AND d.status = 'verified' AND d.receiving $$;
CREATE OR REPLACE FUNCTION lookup_domain_taken(name text, org uuid)
  RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT EXISTS (SELECT FROM domains d
        WHERE d.name = lookup_domain_taken.name AND d.status = 'verified' AND d.org_id <> org) $$;
DROP TABLE domain_claims;
ALTER TABLE mailboxes DROP CONSTRAINT mailboxes_domain_id_fkey;
ALTER TABLE mailboxes ADD CONSTRAINT mailboxes_domain_id_fkey FOREIGN KEY (domain_id) REFERENCES domains ON DELETE CASCADE;
REVOKE DELETE ON domains FROM postroom_worker;
DROP INDEX domains_verified;
CREATE UNIQUE INDEX domains_verified ON domains (name) WHERE status = 'verified';
ALTER TABLE domains
  DROP tracking_verified, DROP seen, DROP tracking_changed_at, DROP old_tracking, DROP check_due_at, DROP waiting_since,
  DROP owned_since, DROP revision, DROP lacking;
