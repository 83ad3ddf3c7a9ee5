-- Takes back 0006_domains.sql.
SELECT 1;
