"""Every method of the official clients that this server is to answer: the newest of Python and Node, and those of late 2024.

The scripts read the list of methods from the client itself, so that a method that is new and not known here fails.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.world import World
from peers import peer

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache"


def _run(there: World, argv: list[str], cwd: Path, claim: str, **env: str) -> dict[str, Any]:
    there.verified_by(there.stranger, claim)
    given = json.dumps({"ids": there.ids, "hook": there.hook, "claim": claim})
    own = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROOM_", "RESEND_"))}
    url = there.stack.dev["api_url"]
    env = {**own, **env, "RESEND_API_KEY": there.stack.dev["api_key"], "RESEND_API_URL": url, "RESEND_BASE_URL": url}
    done = subprocess.run([*argv, given], env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["wrong"] == {}
    return told


def _npm(name: str) -> Path:
    """Installed from its lock file, once."""
    npm = peer("npm")
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name / file, folder / file)
    shutil.copy(HERE / "resend-npm" / "methods.mjs", folder / "methods.mjs")
    if not (folder / "node_modules" / "resend").exists():
        argv = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return folder


def test_python_of_today(there: World, tmp_path: Path) -> None:
    argv = [sys.executable, str(HERE / "resend_methods.py")]
    told = _run(there, argv, tmp_path, "claimed-python.example")
    assert len(told["ran"]) >= 90  # each twice: plain and async


def test_python_of_2024(there: World, tmp_path: Path) -> None:
    folder = CACHE / "resend-pypi-2024"
    if not (folder / "resend").exists():
        wanted = str(HERE / "resend-pypi-2024" / "requirements.txt")
        argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--require-hashes", "--target", str(folder)]
        done = subprocess.run([*argv, "-r", wanted], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0 and os.environ.get("POSTROOM_TEST_REQUIRE_PEERS") != "1":
            pytest.skip("resend 2.4.0 cannot be installed here")
        assert done.returncode == 0, done.stderr
    argv = [sys.executable, str(HERE / "resend_methods.py")]
    told = _run(there, argv, tmp_path, "claimed-python-2024.example", PYTHONPATH=str(folder))
    assert told["version"] == "2.4.0"
    assert {"Emails.send", "Emails.get", "Batch.send", "Domains.create", "ApiKeys.create"} <= set(told["ran"])


def test_node_of_today(there: World) -> None:
    folder = _npm("resend-npm")
    told = _run(there, [peer("node"), "methods.mjs"], folder, "claimed-node.example")
    assert len(told["ran"]) >= 50


def test_node_of_2024(there: World) -> None:
    folder = _npm("resend-npm-2024")
    told = _run(there, [peer("node"), "methods.mjs"], folder, "claimed-node-2024.example")
    assert {"emails.send", "emails.get", "batch.send", "domains.create", "apiKeys.create"} <= set(told["ran"])
