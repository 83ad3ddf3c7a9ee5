-- What became of mail: how each attempt's reply was classed, and the delivery reports owed to who handed a mail in by SMTP.

-- ---- the class of a reply --------------------------------------------------------------------------------------------
-- mailcore/dsn/rules.toml; both NULL where nothing refused. attempts.rule stays what it is: which of our own rules decided.
ALTER TABLE attempts
  ADD category text,                                       -- hard, recipient, content, policy, block, infrastructure, soft, undetermined
  ADD category_rule text;                                  -- the name of the rule that said so

-- ---- what senders asked to be told (RFC 3461) ------------------------------------------------------------------------
-- Of mail handed in by SMTP: {"from", "ret", "envid", "notify", "orcpt"} (mailcore/dsn/wishes.py); NULL: nobody is told.
-- With an empty "from" the mail leaves with an empty return path, as our own reports do.
ALTER TABLE emails ADD dsn jsonb;

-- A report that is owed, one row a recipient and action; those of one email and action become one report.
CREATE TABLE reports_owed (
  email_id    uuid NOT NULL,
  n           smallint NOT NULL,
  action      text NOT NULL CHECK (action IN ('failed', 'delayed', 'relayed')),
  org_id      uuid NOT NULL,
  due_at      timestamptz NOT NULL DEFAULT now(),          -- the next try to write it; moved ahead when one begins
  tries       smallint NOT NULL DEFAULT 0,
  report_id   uuid,                                        -- the email that is the report
  given_up    text,                                        -- why there will be none
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (email_id, n, action)
);
CREATE INDEX reports_owed_due ON reports_owed (due_at) WHERE report_id IS NULL AND given_up IS NULL;
CREATE INDEX reports_owed_org ON reports_owed (org_id, email_id);

ALTER TABLE reports_owed ENABLE ROW LEVEL SECURITY;
ALTER TABLE reports_owed FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON reports_owed TO postroom_app USING (org_id = (SELECT current_org()))
  WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON reports_owed TO postroom_worker USING (true) WITH CHECK (true);
CREATE POLICY door ON reports_owed FOR INSERT TO postroom_door WITH CHECK (true);
GRANT SELECT ON reports_owed TO postroom_app;
GRANT INSERT ON reports_owed TO postroom_door;             -- of recipients that are suppressed when a mail is handed in
GRANT SELECT, INSERT, UPDATE, DELETE ON reports_owed TO postroom_worker;
