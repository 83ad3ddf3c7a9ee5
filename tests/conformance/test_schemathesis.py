"""schemathesis against /openapi.json of a running stack: no server error, no undocumented status, no undocumented shape.

Here a few examples of every operation, and every value at the edge of its range for the operations that programs use most;
`make test-fuzz` asks for many, and for every edge of every operation (POSTROOM_TEST_EXAMPLES).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.world import World, world

MANY = os.environ.get("POSTROOM_TEST_EXAMPLES")
EXAMPLES = MANY or "4"
SECONDS = 300 + 60 * int(EXAMPLES)
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
OF_THE_LAB = ("--exclude-path-regex", "^/v1/(lab|caught)")
MOST_USED = ("--include-path-regex", "^/(emails|suppressions|api-keys)")


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_no_server_error_and_no_undocumented_answer(tmp_path: Path) -> None:
    with world(tmp_path / "world") as there:  # of its own: it deletes what it finds
        if MANY:
            _run(there, tmp_path, "examples,coverage,fuzzing", *OF_THE_LAB)
        else:
            _run(there, tmp_path, "coverage", *MOST_USED)
            _run(there, tmp_path, "examples,fuzzing", *OF_THE_LAB)


def _run(there: World, tmp_path: Path, phases: str, *which: str) -> None:
    url = f"{there.stack.dev['api_url']}/openapi.json"
    argv = [str(Path(sys.executable).with_name("st")), "run", url, "--max-examples", EXAMPLES, "--checks", CHECKS]
    argv += ["--header", f"Authorization: Bearer {there.stack.dev['api_key']}", "--phases", phases, *which]
    argv += ["--suppress-health-check", "all", "--no-color", "--request-timeout", "60"]
    argv += ["--workers", "1"]  # in two threads ast.parse of Python 3.11 fails with a SystemError now and then
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
