-- Takes back 0005_tracking.sql.
DROP TABLE unsubscribes, engagements;
