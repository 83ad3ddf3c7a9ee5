"""The data folder of a local stack: where things lie, whose it is, which version wrote it, and its secrets.

version               the format of this folder; a newer one is refused
lock                  held by the running `postroom up`
secrets.env           0600: encryption key and passwords, made once
dev-credentials.json  0600: the first API key and the admin's password
dev.json              addresses, keys and process ids of the running stack
settings.json         0600: the settings that it was started with, for postroom doctor
pg/ redis/ blobs/ caught/ dns/ tls/ log/
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO

from postroom.console import CannotStart

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Folder:
    root: Path

    @property
    def pg(self) -> Path:
        return self.root / "pg"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def caught(self) -> Path:
        return self.root / "caught"

    @property
    def dns(self) -> Path:
        return self.root / "dns"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.env"

    @property
    def credentials(self) -> Path:
        return self.root / "dev-credentials.json"

    @property
    def dev_json(self) -> Path:
        return self.root / "dev.json"

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"

    def forget_running(self) -> None:
        for path in (self.dev_json, self.settings):
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Secrets:
    """As in secrets.env. The encryption key is 32 bytes in base64; the passwords hold only letters, digits, - and _."""

    POSTROOM_ENCRYPTION_KEY: str
    POSTROOM_POSTGRES_PASSWORD: str
    POSTROOM_DATABASE_PASSWORD: str
    POSTROOM_REDIS_PASSWORD: str


def open_folder(root: Path) -> Folder:
    """Makes the folder when it is new; refuses one that a newer Postroom wrote."""
    folder = Folder(root.absolute())
    try:
        # root's Postgres runs as `nobody`, who must be able to pass through; every file with a secret has its own mode
        folder.root.mkdir(mode=0o711 if os.getuid() == 0 else 0o700, parents=True, exist_ok=True)
        _check_version(folder.root / "version")
        for part in (folder.redis, folder.blobs, folder.caught, folder.dns, folder.tls, folder.log):
            part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise CannotStart(
            f"The data folder {folder.root} cannot be used ({error.strerror}: {error.filename}): make it writable for"
            " this user, or choose another with --data."
        ) from None
    return folder


def _check_version(path: Path) -> None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        write_private(path, f"{FORMAT}\n".encode())
        return
    if not text.isdigit():
        raise CannotStart(f"{path} should hold a number but holds {text[:40]!r}: restore this folder from a backup.")
    if int(text) > FORMAT:
        raise CannotStart(
            f"The data folder {path.parent} was written by a newer Postroom (format {text}, this one knows {FORMAT}):"
            " install that version, or choose another folder with --data."
        )


def lock(folder: Folder) -> IO[str]:
    """Held until the returned file is closed or the process ends. Two stacks on one folder would ruin it."""
    holder = (folder.root / "lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder.seek(0)
        pid = holder.read().strip() or "unknown"
        holder.close()
        raise CannotStart(
            f"A postroom up (process {pid}) already uses {folder.root}: stop it first, or choose another folder with --data."
        ) from None
    holder.truncate(0)
    holder.write(str(os.getpid()))
    holder.flush()
    return holder


def load_secrets(folder: Folder) -> Secrets:
    """Reads secrets.env; makes it the first time."""
    try:
        lines = folder.secrets.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return _make_secrets(folder)
    except OSError as error:
        raise CannotStart(
            f"{folder.secrets} cannot be read ({error.strerror}): start as the user who owns it."
        ) from None
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    missing = [field.name for field in fields(Secrets) if not found.get(field.name)]
    if missing:
        raise CannotStart(f"{folder.secrets} lacks {', '.join(missing)}: restore that file from a backup.")
    return Secrets(**{field.name: found[field.name] for field in fields(Secrets)})


def _make_secrets(folder: Folder) -> Secrets:
    if (folder.pg / "PG_VERSION").exists():
        raise CannotStart(
            f"{folder.secrets} is missing, and without it {folder.pg} cannot be opened: restore that file."
        )
    made = Secrets(
        POSTROOM_ENCRYPTION_KEY=base64.b64encode(secrets.token_bytes(32)).decode(),
        POSTROOM_POSTGRES_PASSWORD=secrets.token_urlsafe(24),
        POSTROOM_DATABASE_PASSWORD=secrets.token_urlsafe(24),
        POSTROOM_REDIS_PASSWORD=secrets.token_urlsafe(24),
    )
    text = "# Made once by postroom up. Keep a copy: without the encryption key, stored keys and passwords are lost.\n"
    text += "".join(f"{field.name}={getattr(made, field.name)}\n" for field in fields(Secrets))
    write_private(folder.secrets, text.encode())
    return made


def write_private(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces a file in one step, on disk before it returns: a reader sees the old content or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
