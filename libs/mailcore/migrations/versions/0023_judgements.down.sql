-- Takes back 0023_judgements.sql.
ALTER TABLE domains DROP subject_tag, DROP compatible_headers;
DROP TABLE blocked_senders, trainings;
