"""A folder on this host's disk. Durable when `put` returns: file written under another name, fsynced, renamed, folder fsynced."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from uuid import uuid4

from mailcore.blob.base import Spooled, check_key, round_trip
from mailcore.kit.errors import NotFound, Unavailable

SPOOL = "incoming"
"""Folder of files that are on their way in."""
_PART = ".part"
"""Ends the name of a file that is being written; what a crash leaves of one is swept like any orphan."""
_LISTED = 500


class LocalBlobs:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    async def put(self, key: str, content: bytes) -> None:
        await asyncio.to_thread(self._put, self._path(key), content)

    async def put_file(self, key: str, content: Spooled) -> None:
        await asyncio.to_thread(self._put_file, self._path(key), content)

    async def get(self, key: str) -> bytes:
        path = self._path(key)
        try:
            return await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError as error:
            raise NotFound("This content is no longer kept.") from error
        except OSError as error:
            raise _unavailable(error) from error

    async def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    async def keys(self, *, older_than: datetime) -> AsyncIterator[str]:
        found = self._walk(older_than.timestamp())
        while page := await asyncio.to_thread(_take, found):
            for key in page:
                yield key

    async def check(self) -> None:
        await round_trip(self)

    def spool(self) -> Path:
        """A folder on the same disk, from which `put_file` takes files without copying them. What a crash leaves there is swept."""
        folder = self._folder / SPOOL
        self._make_folder(folder)
        return folder

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _put(self, path: Path, content: bytes) -> None:
        part = path.with_name(f"{path.name}.{uuid4().hex}{_PART}")
        try:
            self._make_folder(path.parent)
            with part.open("xb", buffering=0) as file:
                view = memoryview(content)
                while view:
                    view = view[file.write(view) :]
                os.fsync(file.fileno())
            part.replace(path)
            _fsync(path.parent)
        except OSError as error:
            with suppress(OSError):  # else the sweep takes it away
                part.unlink(missing_ok=True)
            raise _unavailable(error) from error

    def _put_file(self, path: Path, content: Spooled) -> None:
        part = path.with_name(f"{path.name}.{uuid4().hex}{_PART}")
        try:
            self._make_folder(path.parent)
            try:
                os.link(content.path, part)
            except OSError:  # another disk, or one without links
                shutil.copyfile(content.path, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _fsync(path.parent)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise _unavailable(error) from error

    def _make_folder(self, folder: Path) -> None:
        """A new folder is only durable when the one that holds it is fsynced too."""
        if folder.is_dir():
            return
        if folder != folder.parent:
            self._make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _fsync(folder.parent)

    def _walk(self, older_than: float) -> Iterator[str]:
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = Path(folder, name)
                try:
                    old = path.stat().st_mtime < older_than
                except FileNotFoundError:
                    continue
                if old:
                    yield path.relative_to(self._folder).as_posix()


def _take(found: Iterator[str]) -> list[str]:
    return list(islice(found, _LISTED))


def _fsync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unavailable(error: OSError) -> Unavailable:
    return Unavailable(f"The blob folder cannot be used just now: {error.strerror or error}. Try again in a moment.")
