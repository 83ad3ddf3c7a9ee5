-- Takes back 0003_keys_and_logs.sql.
SELECT 1;
