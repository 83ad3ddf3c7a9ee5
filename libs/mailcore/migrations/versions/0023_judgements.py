"""What people report and block, and how a verdict is told to the next server."""

from __future__ import annotations

from pathlib import Path

from mailcore.store.migrate import run_script

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script(Path(__file__).with_suffix(".sql").read_text())


def downgrade() -> None:
    run_script(Path(__file__).with_suffix(".down.sql").read_text())
