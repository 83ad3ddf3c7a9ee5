-- Takes back 0026_retention.sql. Blobs that wait there to be deleted stay for ever.
DROP FUNCTION drop_month(text, date);
DROP TABLE blob_deletes;
