-- Takes back 0004_emails.sql.
DROP TABLE event_counts, event_counts_mark;
REVOKE UPDATE (xid) ON events FROM postroom_worker;
DROP INDEX events_object, events_xid;
ALTER TABLE events DROP xid;
DROP FUNCTION lookup_emails_to(text, uuid, uuid, boolean, integer);
REVOKE SELECT (email_id, org_id, recipient) ON deliveries FROM postroom_lookup;
DROP POLICY lookup ON deliveries;
DROP INDEX deliveries_recipient;
