-- Receiving: which addresses of a domain there are, what becomes of mail to others, and who has to come twice.

-- catch_all: what becomes of mail to an address that nobody made. create: a mailbox of its own; mailbox: into catch_all_mailbox;
-- reject: refused in the session. subaddressing: user+tag@ lies where user@ does.
ALTER TABLE domains
  ADD catch_all          text NOT NULL DEFAULT 'create' CHECK (catch_all IN ('create', 'mailbox', 'reject')),
  ADD catch_all_mailbox  text CHECK (length(catch_all_mailbox) <= 320),
  ADD subaddressing      boolean NOT NULL DEFAULT true,
  ADD greylisting        boolean NOT NULL DEFAULT false,
  ADD CHECK (catch_all <> 'mailbox' OR catch_all_mailbox IS NOT NULL);

-- Addresses that somebody made, beside those that are mailboxes. alias: mail to it goes to `targets`; reject: it is refused, whatever
-- the domain does with unknown ones.
CREATE TABLE addresses (
  id          uuid PRIMARY KEY,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id   uuid NOT NULL REFERENCES domains ON DELETE CASCADE,
  local       text NOT NULL CHECK (length(local) BETWEEN 1 AND 64), -- in lower case
  kind        text NOT NULL CHECK (kind IN ('alias', 'reject')),
  targets     text[] NOT NULL DEFAULT '{}',                -- mailboxes of the organization, in lower case
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (domain_id, local),
  CHECK ((kind = 'alias') = (cardinality(targets) BETWEEN 1 AND 100))
);
CREATE INDEX addresses_org ON addresses (org_id, id);
ALTER TABLE addresses ENABLE ROW LEVEL SECURITY;
ALTER TABLE addresses FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON addresses TO postroom_app USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON addresses TO postroom_worker USING (true) WITH CHECK (true);
CREATE POLICY lookup ON addresses FOR SELECT TO postroom_lookup USING (true);
CREATE POLICY lookup ON mailboxes FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON addresses TO postroom_app;
GRANT SELECT ON addresses TO postroom_worker;
GRANT SELECT ON addresses TO postroom_lookup;
GRANT SELECT (org_id, address, account_id) ON mailboxes TO postroom_lookup;

-- Who has come with a mail before: SHA-256 of the client's network, the sender and the recipient (flow.greylist).
CREATE TABLE greylist (
  digest    bytea PRIMARY KEY,
  first_at  timestamptz NOT NULL DEFAULT now(),
  seen_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX greylist_age ON greylist (seen_at);
GRANT SELECT, INSERT, UPDATE ON greylist TO postroom_door;
GRANT SELECT, DELETE ON greylist TO postroom_worker;

-- ---- lookups ---------------------------------------------------------------------------------------------------------
-- How a domain receives. listed: whether it is worth asking for an address of it.
CREATE FUNCTION lookup_receiving(name text)
  RETURNS TABLE (org_id uuid, domain_id uuid, catch_all text, subaddressing boolean, greylisting boolean, listed boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT d.org_id, d.id, d.catch_all, d.subaddressing, d.greylisting,
               d.catch_all = 'reject' OR EXISTS (SELECT FROM addresses a WHERE a.domain_id = d.id AND a.kind = 'reject')
        FROM domains d
        WHERE d.name = lookup_receiving.name AND d.receiving
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'sending') $$;

-- Of each pair of domain and local part what it is: mailbox, alias, reject; of others nothing.
CREATE FUNCTION lookup_addresses(domains uuid[], locals text[])
  RETURNS TABLE (domain_id uuid, local text, kind text)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT w.domain_id, w.local, coalesce(a.kind, 'mailbox')
        FROM unnest(lookup_addresses.domains, lookup_addresses.locals) AS w (domain_id, local)
        LEFT JOIN addresses a ON a.domain_id = w.domain_id AND a.local = w.local
        WHERE a.kind IS NOT NULL OR EXISTS (
          SELECT FROM domains d JOIN mailboxes b ON b.org_id = d.org_id AND b.address = w.local || '@' || d.name
          WHERE d.id = w.domain_id AND b.account_id IS NULL) $$;

DO $$
DECLARE f text;
BEGIN
  GRANT CREATE ON SCHEMA public TO postroom_lookup;
  FOREACH f IN ARRAY ARRAY['lookup_receiving(text)', 'lookup_addresses(uuid[], text[])'] LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO postroom_lookup', f);
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO postroom_app, postroom_door, postroom_worker', f);
  END LOOP;
  REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
END $$;
