-- Webhooks: secrets in rotation, endpoints that fail.
SELECT 1;
