-- Domains: claims, re-checks, tracking.
SELECT 1;
