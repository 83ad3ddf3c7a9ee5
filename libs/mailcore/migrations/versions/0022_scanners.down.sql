-- Takes back 0022_scanners.sql. What was pending is routed as it is.
DROP INDEX messages_junk;
ALTER TABLE messages DROP junk;
ALTER TABLE domains DROP spam_action, DROP spam_score, DROP unsure_score, DROP malware_action;
DROP INDEX arrivals_pending;
ALTER TABLE arrivals DROP findings, DROP pending, DROP pending_at;
