-- Takes back 0004_emails.sql.
SELECT 1;
