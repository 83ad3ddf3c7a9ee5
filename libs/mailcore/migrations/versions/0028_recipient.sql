-- To whom, beside the row that is claimed: a claim then touches `deliveries` no more, whose pages grow with what waits and with what
-- was ever sent (ADR 0039). Of rows that wait already it is read there.
ALTER TABLE queue ADD recipient text;
