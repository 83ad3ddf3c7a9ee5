-- Takes back 0014_dkim.sql. Keys that do not sign are forgotten where their private half is gone.
ALTER TABLE domains DROP dkim_due_at, DROP dkim_rotate_days;
REVOKE INSERT, UPDATE, DELETE ON dkim_keys FROM postroom_worker;
ALTER TABLE dkim_keys NO FORCE ROW LEVEL SECURITY;
DELETE FROM dkim_keys WHERE private_sealed IS NULL;
ALTER TABLE dkim_keys ADD signs boolean NOT NULL DEFAULT true;
UPDATE dkim_keys SET signs = active;
ALTER TABLE dkim_keys FORCE ROW LEVEL SECURITY;
ALTER TABLE dkim_keys DROP active, DROP state, DROP origin, DROP seen, DROP seen_at, DROP published_at, DROP active_since,
  DROP keep_until, DROP retired_at, ALTER private_sealed SET NOT NULL;
ALTER TABLE dkim_keys RENAME signs TO active;
