-- Entries of a queue's index die one by one. Where many of one time are kept as one entry it can go only when all of them have, and
-- till then each claim walks over the dead: that was a quarter of the server's work while a queue drained.
ALTER INDEX queue_due SET (deduplicate_items = off);
ALTER INDEX arrival_queue_due SET (deduplicate_items = off);
ALTER INDEX webhook_queue_due SET (deduplicate_items = off);
REINDEX INDEX queue_due;
REINDEX INDEX arrival_queue_due;
REINDEX INDEX webhook_queue_due;
