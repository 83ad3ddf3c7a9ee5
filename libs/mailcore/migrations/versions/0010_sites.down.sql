-- Takes back 0010_sites.sql. What was held is free again.
DROP TABLE queue_orders, holds, site_shares;
ALTER TABLE sites DROP COLUMN limits, DROP COLUMN rules, DROP COLUMN replies, DROP COLUMN heard_at, DROP COLUMN slow_until,
  DROP COLUMN slow_rule;
