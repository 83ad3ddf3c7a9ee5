-- Searching and counting emails.
SELECT 1;
