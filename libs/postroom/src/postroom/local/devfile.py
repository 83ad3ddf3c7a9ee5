"""dev.json: addresses, keys and process ids of the running stack, for tests, editors and other programs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from postroom.console import CannotStart
from postroom.settings import PREFIX

from .folder import Folder, write_private


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


def settings_of(data: Path) -> dict[str, str]:
    """The settings that a running stack was started with: those of its mode, and those that were given to it alone. Raises
    CannotStart when none runs there."""
    folder = Folder(data.absolute())
    try:
        found = json.loads(folder.settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CannotStart(
            f"No stack runs in {folder.root} and POSTROOM_DATABASE__URL is not set: start postroom up, name its folder with"
            " --data, or set the settings of the installation."
        ) from None
    return {str(name): str(value) for name, value in found.items()}


def keep_settings(folder: Folder, settings: Mapping[str, str]) -> None:
    """For `settings_of`. How a process logs is its own matter, and the YAML file's settings are among these: those that are null
    there are left out, for the environment has no such value."""
    kept = {
        name: value
        for name, value in settings.items()
        if name.startswith(PREFIX)
        and not name.startswith(f"{PREFIX}LOG__")
        and name != f"{PREFIX}CONFIG"
        and value != "null"
    }
    write_private(folder.settings, (json.dumps(kept, indent=2) + "\n").encode())
