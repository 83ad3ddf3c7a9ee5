-- Mail that must stay under TLS (RFC 8689), and the end of waiting for a provider's report.

-- Handed in by SMTP with REQUIRETLS; NULL: without.
ALTER TABLE emails ADD requiretls boolean;

-- What providers took, by when: who never reports is found by it (store.provider_events.silent). Each is looked at once: `at` says up
-- to when they have been.
CREATE INDEX attempts_relayed ON attempts (at) WHERE outcome = 'relayed' AND rule IS NULL;
CREATE TABLE relayed_mark (
  one  boolean PRIMARY KEY DEFAULT true CHECK (one),
  at   timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO relayed_mark DEFAULT VALUES;
GRANT SELECT, UPDATE ON relayed_mark TO postroom_worker;

-- While the way of a pool's overflow rests, its mail comes back and waits for room.
UPDATE routes_out SET ways = ways || '00000000-0000-0000-0000-000000000000'::uuid
WHERE org_id IS NULL AND tag_name = 'pool-overflow' AND cardinality(ways) = 1;
