"""dev.json: addresses, keys and process ids of the running stack, for tests, editors and other programs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .folder import write_private


@dataclass(slots=True)
class DevFile:
    """Addresses are `host:port`; None: nothing listens there (yet, or in this mode)."""

    api_url: str
    web_url: str
    api_key: str
    org_id: str
    admin_email: str
    admin_password: str
    mx: str
    submission: str | None
    submissions: str | None
    relay: str | None
    catcher: str | None
    dns: str | None
    tls_ca: str
    metrics_url: str
    ops: Mapping[str, str]
    database_url: str
    redis_url: str
    pids: Mapping[str, list[int]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        write_private(path, (json.dumps(asdict(self), indent=2) + "\n").encode())
