-- Keys of several domains, limits by organization, the log of API calls.
SELECT 1;
