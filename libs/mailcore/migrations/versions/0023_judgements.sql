-- What people think of mail: what they say was spam, senders they want no mail of, and how a verdict is told to the next server.

-- A person's word on a message, and what scanners learned of it. due_at: the next try; NULL: it has ended. learned: an object a scanner.
CREATE TABLE trainings (
  message_id   uuid PRIMARY KEY,                           -- which may be gone since
  org_id       uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  arrival_id   uuid,                                       -- NULL: of a mirrored message, whose mail is not here
  spam         boolean NOT NULL,
  state        text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed', 'skipped')),
  reason       text,
  learned      jsonb NOT NULL DEFAULT '[]',
  attempt      integer NOT NULL DEFAULT 0,
  due_at       timestamptz,
  reports      integer NOT NULL DEFAULT 1,                 -- how often somebody changed his mind
  reported_by  uuid,                                       -- NULL: a program with a key
  reported_at  timestamptz NOT NULL DEFAULT now(),
  CHECK ((state = 'waiting') = (due_at IS NOT NULL))
);
CREATE INDEX trainings_due ON trainings (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX trainings_reported ON trainings (org_id, reported_at);
ALTER TABLE trainings ENABLE ROW LEVEL SECURITY;
ALTER TABLE trainings FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON trainings TO postroom_app USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON trainings TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON trainings TO postroom_app;
GRANT SELECT, UPDATE, DELETE ON trainings TO postroom_worker;

-- sender: an address in lower case, or @domain for all of a domain and those below it. mailbox_id NULL: for all of the organization.
CREATE TABLE blocked_senders (
  id          uuid PRIMARY KEY,
  org_id      uuid NOT NULL REFERENCES organizations ON DELETE CASCADE,
  mailbox_id  uuid REFERENCES mailboxes ON DELETE CASCADE,
  sender      text NOT NULL CHECK (length(sender) BETWEEN 2 AND 320 AND sender LIKE '%@%'),
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE NULLS NOT DISTINCT (org_id, mailbox_id, sender)
);
CREATE INDEX blocked_senders_mailbox ON blocked_senders (mailbox_id) WHERE mailbox_id IS NOT NULL;
ALTER TABLE blocked_senders ENABLE ROW LEVEL SECURITY;
ALTER TABLE blocked_senders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON blocked_senders TO postroom_app
  USING (org_id = (SELECT current_org())) WITH CHECK (org_id = (SELECT current_org()));
CREATE POLICY worker ON blocked_senders TO postroom_worker USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, DELETE ON blocked_senders TO postroom_app;
GRANT SELECT ON blocked_senders TO postroom_worker;

-- How mail that is passed on says what was thought of it (mailcore.mime.marks).
ALTER TABLE domains
  ADD subject_tag         text CHECK (subject_tag ~ '^[!-~]([ -~]{0,38}[!-~])?$' AND subject_tag !~ '=\?'),
  ADD compatible_headers  boolean NOT NULL DEFAULT false;
