"""Every import contract of pyproject.toml can fail: a breach of each is planted in a copy of the sources, and must be named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*ROOT.glob("libs/*/src"), *ROOT.glob("services/*/src")]

BREACHES = [
    ("No service imports another", "outbound/planted.py", "import webhooks"),
    ("mailcore's layers", "mailcore/kit/planted.py", "import mailcore.store"),
    ("mailcore's layers", "mailcore/mime/planted.py", "import mailcore.mailauth"),
    ("mailcore's layers", "mailcore/store/planted.py", "import mailcore.queue"),
    ("mailcore's layers", "mailcore/utils/__init__.py", ""),  # exhaustive: a new package has no place
    ("Formats know no database", "mailcore/mime/planted.py", "import asyncpg"),
    ("mailcore knows no web framework", "mailcore/flow/planted.py", "import fastapi"),
    ("chassis knows no mail", "chassis/planted.py", "import mailcore.store"),
    ("No provider imports another", "mailcore/providers/resend/planted.py", "import mailcore.providers.ses"),
    ("Only flow and outbound write deliveries", "api/planted.py", "import mailcore.store.deliveries"),
    ("Only flow and outbound write deliveries", "api/planted_too.py", "import mailcore.store.leases"),
]


def _lint(sources: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(program), "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for source in SOURCES:
        shutil.copytree(source, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_tree_keeps_every_contract(sources: Path) -> None:
    result = _lint(sources)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("contract", "file", "line"), BREACHES, ids=[f"{c[:20]}: {f}" for c, f, _ in BREACHES])
def test_a_planted_breach_fails(sources: Path, contract: str, file: str, line: str) -> None:
    planted = sources / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(line + "\n")
    result = _lint(sources)
    assert result.returncode == 1, result.stdout
    broken = [text for text in result.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), result.stdout
