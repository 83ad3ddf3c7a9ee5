-- Takes back 0007_webhooks.sql.
SELECT 1;
