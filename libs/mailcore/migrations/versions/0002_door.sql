-- What the door of sending knows besides: raw messages, tracking by email, suppressions, usage and quotas.

-- ---- emails ----------------------------------------------------------------------------------------------------------
ALTER TABLE emails
  ADD raw           bytea,                                 -- a whole message that was handed in, up to 64 KiB; beyond that:
  ADD raw_blob      text,                                  -- key of its blob; body_bytes is its size
  ADD track_opens   boolean,                               -- NULL: as the domain says
  ADD track_clicks  boolean;
ALTER TABLE emails ALTER raw SET STORAGE EXTERNAL;
