-- Takes back 0005_tracking.sql. make_partitions stays: it makes those of the tables that there are.
DROP TABLE unsubscribes, engagements;
