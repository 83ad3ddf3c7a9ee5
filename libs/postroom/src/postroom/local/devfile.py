"""dev.json: addresses, keys and process ids of the running stack, for tests, editors and other programs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from postroom.console import CannotStart

from . import postgres
from .folder import Folder, load_secrets, write_private


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
    """The settings by which a running stack can be examined. Raises CannotStart when none runs there."""
    folder = Folder(data.absolute())
    try:
        dev = json.loads(folder.dev_json.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CannotStart(
            f"No stack runs in {folder.root} and POSTROOM_DATABASE__URL is not set: start postroom up, name its folder with"
            " --data, or set the settings of the installation."
        ) from None
    secrets = load_secrets(folder)
    settings = {
        "DATABASE__URL": dev["database_url"],
        "REDIS__URL": dev["redis_url"],
        "BLOB__URL": folder.blobs.as_uri(),
        "ENCRYPTION_KEY": secrets.POSTROOM_ENCRYPTION_KEY,
    }
    server = urlsplit(dev["database_url"])
    if server.password == secrets.POSTROOM_DATABASE_PASSWORD:  # it is our own Postgres
        login = f"{postgres.SUPERUSER}:{secrets.POSTROOM_POSTGRES_PASSWORD}"
        settings["DATABASE__MIGRATE_URL"] = server._replace(netloc=f"{login}@{server.hostname}:{server.port}").geturl()
    if dev["dns"]:
        settings |= {"DNS__NAMESERVERS": dev["dns"], "CATCH__DIR": str(folder.caught), "OUTBOUND__ROUTE": "catch"}
    return {f"POSTROOM_{name}": value for name, value in settings.items()}
