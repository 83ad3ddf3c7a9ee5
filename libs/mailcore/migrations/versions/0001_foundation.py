"""The foundation: tenancy, sending, events and webhooks, receiving, mirrored mail."""

from __future__ import annotations

from pathlib import Path

from mailcore.store.migrate import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Drops every table and function but alembic's own; roles belong to the whole server and stay.
_DOWN = """
DO $$
DECLARE r record;
BEGIN
  FOR r IN SELECT c.oid::regclass AS name FROM pg_class c
           WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
             AND c.relname <> 'alembic_version' LOOP
    EXECUTE format('DROP TABLE %s CASCADE', r.name);
  END LOOP;
  FOR r IN SELECT p.oid::regprocedure AS name FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace LOOP
    EXECUTE format('DROP FUNCTION %s CASCADE', r.name);
  END LOOP;
END $$;
"""


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    run_script(_DOWN)
