-- Takes back 0005_tracking.sql.
SELECT 1;
