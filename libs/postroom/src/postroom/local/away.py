"""Homes away: where the Postgres of root's stacks lies when the user `nobody` may not enter the data folder.

A home is a folder of BASE with a random name: `pg` (the cluster; DIR/pg is a link to it), perhaps a copy of the server's programs,
and `of`, a file that says where that link is, written anew at each start. Who deletes DIR by hand, as tests and tries do, leaves
the home behind. `sweep` removes such a one, and only then:

* the link is gone or leads elsewhere, and it was in a folder for temporary files: elsewhere DIR may have been moved, or be on a
  disk that is not mounted just now, and then the home is somebody's mail;
* no process works in it, and none has for a day: DIR may be on its way out of the folder for temporary files.

A home without `of` was made by an older Postroom and is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BASE = Path("/var/lib/postroom")
REST_SECONDS = 86_400.0
_OF = "of"


def temporary() -> tuple[Path, ...]:
    """Where programs put what may be gone tomorrow."""
    usual = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - nothing is written there
    return (*usual, Path(tempfile.gettempdir()))


@contextmanager
def turn(base: Path = BASE) -> Iterator[None]:
    """One stack at a time makes or sweeps homes: a home whose link is not made yet is none to sweep."""
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (base / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def make(link: Path, base: Path = BASE) -> Path:
    """A new home for the cluster to which `link` is going to lead. In a turn."""
    home = base / secrets.token_hex(6)
    home.mkdir(mode=0o755)
    _say(home, link)
    return home


def remember(link: Path, base: Path = BASE) -> None:
    """At each start: where the link is now, and that its home is in use."""
    if link.is_symlink() and link.readlink().parent.parent == base:
        with contextlib.suppress(OSError):
            _say(link.readlink().parent, link)


def _say(home: Path, link: Path) -> None:
    (home / _OF).write_text(f"{link.absolute()}\n", encoding="utf-8", errors="surrogateescape")


def sweep(base: Path = BASE, rest_seconds: float = REST_SECONDS, places: tuple[Path, ...] | None = None) -> list[Path]:
    """Removes the homes that are left over, and gives them."""
    if not base.is_dir():
        return []
    swept = []
    with turn(base):
        busy = {working for working in _working() if base in working.parents}
        for home in base.iterdir():
            if not home.is_dir() or any(home in working.parents for working in busy):
                continue
            if _left_over(home, rest_seconds, temporary() if places is None else places):
                shutil.rmtree(home, ignore_errors=True)
                swept.append(home)
    return swept


def _left_over(home: Path, rest_seconds: float, places: tuple[Path, ...]) -> bool:
    try:
        link = Path((home / _OF).read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n"))
        # pg_control is written whenever the server starts, stops or makes a checkpoint
        used = max(_touched(home / _OF), _touched(home / "pg" / "global" / "pg_control"))
    except OSError:
        return False
    if not any(place in link.parents for place in places):
        return False
    leads_here = link.is_symlink() and link.readlink() == home / "pg"
    return not leads_here and time.time() - used > rest_seconds


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _working() -> set[Path]:
    """The folders in which processes work, as all of a server's do in its own (Linux)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found.add((entry / "cwd").readlink())
    return found
