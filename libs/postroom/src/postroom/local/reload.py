"""`postroom up --reload`: when a Python file of the workspace changes, the services start again."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from pathlib import Path

from postroom.console import say

from .defaults import SERVICES

_LOOK_SECONDS = 0.7


async def watch(changed: Callable[[], None]) -> None:
    """Looks at the source files of the services and their libraries until cancelled."""
    roots = [_folder(name) for name in ("mailcore", "chassis", *(service.module for service in SERVICES))]
    before = await asyncio.to_thread(_state, roots)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = await asyncio.to_thread(_state, roots)
        if now != before:
            name = next(iter(sorted(path for path, _ in now ^ before)), "")
            say(f"{name} changed: starting the services again")
            before = now
            changed()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def _state(roots: list[Path]) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for root in roots for path in root.rglob("*.py") if path.exists()}
