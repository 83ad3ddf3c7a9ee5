"""Test data by others, kept beside the project and never copied into it: a test that wants it skips where it is absent.

`POSTROOM_SUITES` names the folder; else it is looked for in `shared/suites` beside the checkout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_FOLDER = Path(os.environ.get("POSTROOM_SUITES") or Path(__file__).parents[2] / "shared" / "suites")


def available(name: str) -> bool:
    return (_FOLDER / name).is_dir()


def suite(name: str) -> Path:
    """The folder of a suite; skips the test (or, at import, the module) where there is none."""
    if not available(name):
        pytest.skip(f"suite {name} is not beside the checkout (set POSTROOM_SUITES)", allow_module_level=True)
    return _FOLDER / name


def vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((suite(name) / "vectors.json").read_text())
    return loaded
