"""The slice of tests/faults that every change runs: nothing is lost, every repeat marked.

200 sends, while outbound is killed three times, its processes that sign twice, and Redis is flushed.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from faults.harness import Faults, run


@pytest.mark.timeout(600)
def test_three_kills_lose_nothing(tmp_path: Path) -> None:
    faults = Faults(
        kills=3, flushes=1, restarts=0, signers=2, pause=(0.3, 0.8), seed=random.randrange(1 << 30), aimed=True
    )
    found = run(tmp_path, total=200, faults=faults, quiet_seconds=400, delay=0.6, processes=2)
    assert faults.done["kill"] == 3
    assert faults.done["signer"] == 2
    assert found.lost_attempts > 0, "no kill hit anything"
    assert found.green, found
