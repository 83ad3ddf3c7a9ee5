-- From where a source is barred: a site, or all sites of a provider, that said its address is the reason. No tenant: the
-- installation's, as sources are. Each process reads it with the sources, every few seconds.
CREATE TABLE source_bars (
  source_id   uuid NOT NULL REFERENCES sources ON DELETE CASCADE,
  place       text NOT NULL,                               -- a site's key, or a provider's name in the shaping file (it has no colon)
  until       timestamptz NOT NULL,
  reason      text NOT NULL,                               -- the rule, and what the site said
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source_id, place)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON source_bars TO postroom_worker;
