-- Opens, clicks and unsubscribes.
SELECT 1;
