-- TLS of mail: what others ask of us, what came of it, and what our own domains ask of others.

-- ---- policies of recipient domains (RFC 8461), kept as long as they say ----------------------------------------------
-- No tenant in these: they are about where mail goes.
CREATE TABLE mta_sts_policies (
  domain      text PRIMARY KEY,
  policy_id   text,                                        -- of the TXT record under which it was fetched; NULL: never fetched
  mode        text CHECK (mode IN ('enforce', 'testing', 'none')),
  mx          text[],
  max_age     integer,
  fetched_at  timestamptz,                                 -- when it was last seen; with max_age the end of its life
  failure     text,                                        -- of the last try to fetch it, as TLS reports name it
  reason      text,
  retry_at    timestamptz                                  -- not fetched again before this
);
CREATE INDEX mta_sts_policies_age ON mta_sts_policies (fetched_at);

-- ---- what TLS came to, added up for reports (RFC 8460): of domains that want to be told ------------------------------
CREATE TABLE tls_results (
  digest    bytea PRIMARY KEY,                             -- SHA-256 of day, domain and what it was
  day       date NOT NULL,                                 -- UTC
  domain    text NOT NULL,                                 -- of the recipients
  policy    jsonb NOT NULL,                                -- as the report shows it: policy-type, policy-string, policy-domain, mx-host
  failure   jsonb,                                         -- result-type, receiving-mx-hostname …; NULL: sessions that were well
  sessions  bigint NOT NULL
);
CREATE INDEX tls_results_day ON tls_results (day, domain);

-- One row a domain and day that there is something to tell about; kept for 30 days.
CREATE TABLE tls_reports (
  domain      text NOT NULL,
  day         date NOT NULL,
  state       text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'sent', 'unwanted', 'failed')),
  due_at      timestamptz NOT NULL,
  attempt     integer NOT NULL DEFAULT 0,
  report_id   text,
  report      jsonb,
  done        jsonb NOT NULL DEFAULT '{}',                 -- where it went: URI -> what came of it
  last_error  text,
  sent_at     timestamptz,
  PRIMARY KEY (day, domain)
);
CREATE INDEX tls_reports_due ON tls_reports (due_at) WHERE state = 'due';

GRANT SELECT, INSERT, UPDATE, DELETE ON mta_sts_policies, tls_results, tls_reports TO postroom_worker;

ALTER TABLE attempts ADD tls_policy text;                  -- which policy ruled the connection: dane, mta-sts, required …

-- ---- our own domains ------------------------------------------------------------------------------------------------
-- The MTA-STS policy that we serve for a domain. No row: none is served.
CREATE TABLE domain_mta_sts (
  domain_id   uuid PRIMARY KEY REFERENCES domains ON DELETE CASCADE,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  mode        text NOT NULL CHECK (mode IN ('enforce', 'testing', 'none')),
  max_age     integer NOT NULL CHECK (max_age BETWEEN 0 AND 31557600),
  mx          text[] NOT NULL DEFAULT '{}',                -- hosts besides ours
  changed_at  timestamptz NOT NULL DEFAULT now()
);

-- What others tell about mail to a domain of ours (RFC 8460), by POST or by mail.
CREATE TABLE received_tls_reports (
  id            uuid PRIMARY KEY,                          -- UUIDv7: when it came
  org_id        uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id     uuid NOT NULL REFERENCES domains ON DELETE CASCADE,
  door          text NOT NULL CHECK (door IN ('https', 'mail')),
  source        text NOT NULL,                             -- address of who posted it; of a mail its sender
  organization  text NOT NULL,                             -- who reports, by their own word
  report_id     text NOT NULL,
  begins_at     timestamptz NOT NULL,
  ends_at       timestamptz NOT NULL,
  successful    bigint NOT NULL,                           -- sessions
  failed        bigint NOT NULL,
  report        jsonb NOT NULL,
  UNIQUE (domain_id, organization, report_id)              -- one that comes twice is one
);
CREATE INDEX received_tls_reports_org ON received_tls_reports (org_id, id);
CREATE INDEX received_tls_reports_domain ON received_tls_reports (domain_id, id);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['domain_mta_sts', 'received_tls_reports'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE, DELETE ON domain_mta_sts TO postroom_app;
GRANT SELECT, INSERT ON received_tls_reports TO postroom_app;
GRANT SELECT, DELETE ON received_tls_reports TO postroom_worker;    -- upkeep
GRANT SELECT ON domain_mta_sts TO postroom_worker;

-- The policy of a domain that receives here: asked by any mail server of the world, by host name.
CREATE FUNCTION lookup_mta_sts(name text)
  RETURNS TABLE (mode text, max_age integer, mx text[])
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT s.mode, s.max_age, s.mx FROM domains d JOIN domain_mta_sts s ON s.domain_id = d.id
        WHERE d.name = lookup_mta_sts.name AND d.receiving
          AND (d.status = 'verified' OR d.status IN ('partially_verified', 'partially_failed') AND d.lacking = 'sending') $$;

-- Whether a host is one of ours that needs a certificate: `mta-sts.` of a domain with a policy, or a tracking host. `parents`: the
-- names above it.
CREATE FUNCTION lookup_tls_host(host text, parents text[])
  RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
  AS $$ SELECT EXISTS (SELECT FROM domains d
        WHERE d.name = ANY (parents) AND d.status IN ('verified', 'partially_verified', 'partially_failed')
          AND (host = d.tracking_subdomain || '.' || d.name
            OR host = ANY (SELECT old || '.' || d.name FROM unnest(d.old_tracking) AS old)
            OR host = 'mta-sts.' || d.name AND EXISTS (SELECT FROM domain_mta_sts s WHERE s.domain_id = d.id))) $$;

CREATE POLICY lookup ON domain_mta_sts FOR SELECT TO postroom_lookup USING (true);
GRANT SELECT ON domain_mta_sts TO postroom_lookup;
GRANT CREATE ON SCHEMA public TO postroom_lookup;
ALTER FUNCTION lookup_mta_sts(text) OWNER TO postroom_lookup;
ALTER FUNCTION lookup_tls_host(text, text[]) OWNER TO postroom_lookup;
REVOKE CREATE ON SCHEMA public FROM postroom_lookup;
REVOKE ALL ON FUNCTION lookup_mta_sts(text), lookup_tls_host(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lookup_mta_sts(text), lookup_tls_host(text, text[]) TO postroom_app;
