-- Takes back 0011_bounces.sql.
DROP TABLE reports_owed;
ALTER TABLE emails DROP dsn;
ALTER TABLE attempts DROP category, DROP category_rule;
