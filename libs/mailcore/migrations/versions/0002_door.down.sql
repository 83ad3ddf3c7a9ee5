-- Takes back 0002_door.sql.
DROP FUNCTION take_idempotency_keys(uuid[], text[], text[], bigint[], bytea[], bytea[]);
DROP FUNCTION lookup_usage(uuid[]);
DROP TABLE usage_deltas, usage, suppressions;
DROP POLICY lookup ON organizations;
REVOKE SELECT ON organizations FROM postroom_lookup;
ALTER TABLE organizations DROP daily_quota, DROP monthly_quota, DROP rate_limit;
ALTER TABLE emails DROP raw, DROP raw_blob, DROP track_opens, DROP track_clicks;
