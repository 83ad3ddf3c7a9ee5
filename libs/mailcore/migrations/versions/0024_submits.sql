-- The answer to a batch is some 5 kB of ids, kept for a day: to compress it took longer than to store all the rest of its key.
ALTER TABLE idempotency_keys ALTER response SET STORAGE EXTERNAL;
