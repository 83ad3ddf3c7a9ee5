-- People: sign-in, sessions.
SELECT 1;
