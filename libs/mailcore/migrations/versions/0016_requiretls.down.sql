-- Takes back 0016_requiretls.sql.
DROP TABLE relayed_mark;
DROP INDEX attempts_relayed;
ALTER TABLE emails DROP requiretls;
