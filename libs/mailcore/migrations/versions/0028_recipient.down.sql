ALTER TABLE queue DROP COLUMN recipient;
