"""Named places where a test build dies, to show that nothing is lost there (reliability: failpoints f1 … f21).

`POSTROOM_FAILPOINT=name` kills the process as SIGKILL would the first time it passes `hit("name")`; `name:5` the fifth time.
"""

from __future__ import annotations

import os

_remaining: dict[str, int] = {}


def arm(spec: str) -> None:
    """Set by a process at start from its settings; an empty spec arms nothing."""
    for item in filter(None, (part.strip() for part in spec.split(","))):
        name, _, count = item.partition(":")
        _remaining[name] = int(count or 1)


def armed(name: str) -> bool:
    """Whether a switch-like failpoint is on (for protections that a test turns off to prove that it can see)."""
    return name in _remaining


def hit(name: str) -> None:
    if not _remaining or name not in _remaining:
        return
    _remaining[name] -= 1
    if _remaining[name] <= 0:
        os._exit(137)
