-- Takes back 0002_door.sql.
SELECT 1;
