-- Bulk senders: who has reached what Gmail, Yahoo and Microsoft count by, and the alarm of what such a domain lacks (flow.bulk).

-- By registered domain, with all names below it, whoever sends: so receivers count. No tenant in it.
CREATE TABLE bulk_senders (
  domain      text PRIMARY KEY,
  sent        bigint NOT NULL,                             -- recipients of the 24 hours before the last look
  reached_at  timestamptz                                  -- first seen past the limit: it stays a bulk sender. NULL: it is near
);
GRANT SELECT, INSERT, DELETE ON bulk_senders TO postroom_worker;

ALTER TABLE alarms DROP CONSTRAINT alarms_kind_check, DROP CONSTRAINT alarms_ended_by_check,
  ADD CONSTRAINT alarms_kind_check CHECK (kind IN ('complaints', 'bounces', 'volume', 'manual', 'bulk')),
  ADD CONSTRAINT alarms_ended_by_check CHECK (ended_by IN ('rate', 'person', 'pause', 'mended', 'change'));
