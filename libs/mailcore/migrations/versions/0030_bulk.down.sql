-- Takes back 0030_bulk.sql.
DELETE FROM alarms WHERE kind = 'bulk';
ALTER TABLE alarms DROP CONSTRAINT alarms_kind_check, DROP CONSTRAINT alarms_ended_by_check,
  ADD CONSTRAINT alarms_kind_check CHECK (kind IN ('complaints', 'bounces', 'volume', 'manual')),
  ADD CONSTRAINT alarms_ended_by_check CHECK (ended_by IN ('rate', 'person', 'pause'));
DROP TABLE bulk_senders;
