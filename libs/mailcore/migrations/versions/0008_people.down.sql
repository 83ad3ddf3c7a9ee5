-- Takes back 0008_people.sql.
SELECT 1;
