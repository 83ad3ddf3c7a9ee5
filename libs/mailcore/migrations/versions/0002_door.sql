-- What the door of sending knows besides: suppressions, usage and quotas, raw messages, tracking by email.
SELECT 1;
