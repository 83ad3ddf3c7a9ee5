"""Bulk senders, and the alarm of what they lack."""

from __future__ import annotations

from pathlib import Path

from mailcore.store.migrate import run_script

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    run_script(Path(__file__).with_suffix(".down.sql").read_text())
