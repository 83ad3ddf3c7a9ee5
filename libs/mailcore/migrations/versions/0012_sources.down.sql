-- Takes back 0012_sources.sql. Mail that waited for room is due at once.
UPDATE queue SET due_at = now() WHERE waits_for IS NOT NULL AND worker IS NULL;
DROP INDEX queue_waits, events_complained;
ALTER TABLE queue DROP COLUMN waits_for, DROP COLUMN turn;
DROP TABLE warmup_decisions, warmup_days, warmups, source_hosts, sources, pool_serves, pools;
