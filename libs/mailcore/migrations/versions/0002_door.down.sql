-- Takes back 0002_door.sql.
ALTER TABLE emails DROP raw, DROP raw_blob, DROP track_opens, DROP track_clicks;
