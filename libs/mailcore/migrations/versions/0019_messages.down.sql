-- Takes back 0019_messages.sql.
DROP FUNCTION search_messages, search_by_index, search_by_age, search_mark, search_period;
DROP TABLE message_words, thread_keys, threads;
DROP POLICY search ON messages;
REVOKE SELECT (id, org_id, received_at, seen, flagged) ON messages FROM postroom_search;
DROP INDEX mailboxes_org;
ALTER TABLE mailboxes DROP COLUMN display_name;
ALTER TABLE messages DROP COLUMN thread_id, DROP COLUMN thread_by, DROP COLUMN reply_to, DROP COLUMN attachments,
  DROP COLUMN snippet, DROP COLUMN doubts, DROP COLUMN seen, DROP COLUMN flagged;  -- and with them the indexes that have them
DROP INDEX messages_org, messages_mailbox;
CREATE INDEX messages_org ON messages (org_id, id);
CREATE INDEX messages_mailbox ON messages (mailbox_id, id);
