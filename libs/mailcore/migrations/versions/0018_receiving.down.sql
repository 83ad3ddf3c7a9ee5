-- Takes back 0018_receiving.sql.
DROP FUNCTION lookup_addresses(uuid[], text[]);
DROP FUNCTION lookup_receiving(text);
DROP TABLE greylist, addresses;
REVOKE SELECT (org_id, address, account_id) ON mailboxes FROM postroom_lookup;
DROP POLICY lookup ON mailboxes;
ALTER TABLE domains DROP greylisting, DROP subaddressing, DROP catch_all_mailbox, DROP catch_all;
