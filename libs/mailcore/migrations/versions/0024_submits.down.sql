ALTER TABLE idempotency_keys ALTER response SET STORAGE EXTENDED;
