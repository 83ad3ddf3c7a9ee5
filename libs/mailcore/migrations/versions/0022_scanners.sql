-- What scanners find of mail that arrives, and what its domains want done with it.

-- findings: flow.scan's, one a scanner that was asked; NULL: none was. pending: which scanners must still look at it before anything
-- becomes of it, of a mail that is received and in the queue; pending_at: since when.
ALTER TABLE arrivals
  ADD findings    jsonb,
  ADD pending     text,
  ADD pending_at  timestamptz;
CREATE INDEX arrivals_pending ON arrivals (org_id, id) WHERE pending IS NOT NULL;

-- What is spam by SpamAssassin's points, and what is done with it and with malware. tag: it is said, nothing else; junk: it lies in
-- its mailbox with the keyword $Junk; quarantine: it is held; reject: refused while it is sent, and held where that is over.
ALTER TABLE domains
  ADD spam_action     text NOT NULL DEFAULT 'junk' CHECK (spam_action IN ('tag', 'junk', 'quarantine', 'reject')),
  ADD spam_score      double precision NOT NULL DEFAULT 12 CHECK (spam_score BETWEEN -1000 AND 1000),
  ADD unsure_score    double precision NOT NULL DEFAULT 5 CHECK (unsure_score BETWEEN -1000 AND 1000),
  ADD malware_action  text NOT NULL DEFAULT 'quarantine' CHECK (malware_action IN ('tag', 'quarantine', 'reject')),
  ADD CHECK (unsure_score <= spam_score);

-- IANA keyword; a column, since a policy keeps an index of an array from being used
ALTER TABLE messages ADD junk boolean NOT NULL GENERATED ALWAYS AS ('$Junk' = ANY (flags)) STORED;
CREATE INDEX messages_junk ON messages (org_id, received_at, id) WHERE junk;
