-- Authentication of what arrives, and what others report of the authentication of what we sent.

ALTER TABLE arrivals ADD auth jsonb;                       -- SPF, DKIM, DMARC, ARC and our header field (flow.authenticate); NULL: not yet

ALTER TABLE domains ADD dmarc_policy text NOT NULL DEFAULT 'tag' CHECK (dmarc_policy IN ('tag', 'quarantine', 'reject'));

-- Message-IDs that senders chose themselves, by which a report finds its mail; those that we make hold the email's id.
CREATE INDEX emails_own_message_id ON emails (message_id) WHERE left(message_id, 38) <> '<' || id::text || '@';

-- DMARC aggregate reports about domains of ours (RFC 9990): what a receiver saw in a day or so.
CREATE TABLE dmarc_reports (
  id            uuid PRIMARY KEY,                          -- UUIDv7: when it came
  org_id        uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  domain_id     uuid NOT NULL REFERENCES domains ON DELETE CASCADE,
  arrival_id    uuid,                                      -- the mail that it came in
  source        text NOT NULL,                             -- sender of that mail
  proven        text,                                      -- the domain that DMARC proved to have written it; NULL: none
  organization  text NOT NULL,                             -- who reports, by their own word
  contact       text NOT NULL,
  report_id     text NOT NULL,
  begins_at     timestamptz NOT NULL,
  ends_at       timestamptz NOT NULL,
  messages      bigint NOT NULL,
  passed        bigint NOT NULL,                           -- of them, with DKIM or SPF aligned
  quarantined   bigint NOT NULL,
  rejected      bigint NOT NULL,
  policy        jsonb NOT NULL,                            -- as the receiver found it published
  defects       jsonb NOT NULL DEFAULT '[]',               -- what of the report could not be read
  UNIQUE (domain_id, organization, report_id)              -- one that comes twice is one
);
CREATE INDEX dmarc_reports_org ON dmarc_reports (org_id, id);
CREATE INDEX dmarc_reports_domain ON dmarc_reports (domain_id, id);

-- Mail of one kind from one address, as a report counts it.
CREATE TABLE dmarc_rows (
  report_id      uuid NOT NULL REFERENCES dmarc_reports ON DELETE CASCADE,
  n              integer NOT NULL,                         -- its place in the report
  org_id         uuid NOT NULL,
  domain_id      uuid NOT NULL,
  begins_at      timestamptz NOT NULL,                     -- of the report
  ends_at        timestamptz NOT NULL,
  source_ip      inet NOT NULL,
  messages       bigint NOT NULL,
  dkim           boolean NOT NULL,                         -- aligned, by the receiver's verdict
  spf            boolean NOT NULL,
  disposition    text NOT NULL,                            -- none, quarantine, reject
  header_from    text NOT NULL,
  envelope_from  text NOT NULL,
  reasons        jsonb NOT NULL,                           -- why the receiver did otherwise than the policy asks
  results        jsonb NOT NULL,                           -- raw results of DKIM and SPF
  PRIMARY KEY (report_id, n)
);
CREATE INDEX dmarc_rows_source ON dmarc_rows (domain_id, source_ip, ends_at);

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['dmarc_reports', 'dmarc_rows'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO postroom_app USING (org_id = (SELECT current_org())) '
                   'WITH CHECK (org_id = (SELECT current_org()))', t);
    EXECUTE format('CREATE POLICY worker ON %I TO postroom_worker USING (true) WITH CHECK (true)', t);
  END LOOP;
END $$;
GRANT SELECT, INSERT ON dmarc_reports, dmarc_rows TO postroom_app;
GRANT SELECT, DELETE ON dmarc_reports TO postroom_worker;  -- upkeep
