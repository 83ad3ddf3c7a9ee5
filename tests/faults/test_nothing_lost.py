"""2,000 sends while outbound is killed ten times, its processes that sign ten times, Redis flushed thrice and Postgres restarted.
`make test-faults`.

Every accepted send reaches an fsyncing sink, each repeat is marked, nothing is stuck. The same run with the protection off must
come out red: else the oracle could not see a loss. POSTROOM_FAULTS_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from faults.harness import Faults, run

SEED = int(os.environ.get("POSTROOM_FAULTS_SEED") or random.randrange(1 << 30))


@pytest.mark.timeout(900)
def test_kills_flushes_and_a_restart_lose_nothing(tmp_path: Path) -> None:
    faults = Faults(kills=10, flushes=3, restarts=1, signers=10, pause=(0.5, 1.5), seed=SEED)
    found = run(tmp_path, total=2_000, faults=faults, delay=0.5)
    assert faults.done == {"kill": 10, "flush": 3, "restart": 1, "signer": 10}
    assert found.accepted == 2_000
    assert found.lost_attempts > 0, "no kill hit anything"
    assert found.green, found


@pytest.mark.timeout(600)
def test_with_leases_off_the_oracle_sees_the_loss(tmp_path: Path) -> None:
    faults = Faults(kills=10, flushes=3, restarts=1, pause=(0.5, 2.0), seed=SEED)
    env = {"POSTROOM_FAILPOINT": "leases_off"}
    found = run(tmp_path, total=2_000, faults=faults, env=env, delay=0.5, quiet_seconds=30)
    assert not found.green, found
    assert found.stuck > 0
    assert found.loss > 0
