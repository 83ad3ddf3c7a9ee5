-- Takes back 0017_auth.sql.
DROP INDEX emails_own_message_id;
DROP TABLE dmarc_rows, dmarc_reports;
ALTER TABLE domains DROP dmarc_policy;
ALTER TABLE arrivals DROP auth;
