"""The metrics of all parts in one place: each service's exposition, told apart by the label `process`.

Families of one name are put together under one HELP and TYPE, as the text format demands (Prometheus text format 0.0.4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HEAD_SECONDS = 10.0

Collect = Callable[[], Awaitable[Mapping[str, bytes]]]
"""Gives the exposition of every process that answers, by its name."""


def merge(expositions: Mapping[str, bytes]) -> bytes:
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in expositions.items():
        family = ""
        for line in text.decode("utf-8", "replace").split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                kind, family = line[2:6], line[7:].split(" ", 1)[0]
                head = heads.setdefault(family, [])
                if not any(known.startswith(f"# {kind} ") for known in head):
                    head.append(line)
            elif line and not line.startswith("#"):
                name = line.split("{", 1)[0].split(" ", 1)[0]
                samples.setdefault(family if family and name.startswith(family) else name, []).append(
                    _labelled(line, name, process)
                )
    lines = [line for family, body in samples.items() for line in (*heads.get(family, ()), *body)]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _labelled(line: str, name: str, process: str) -> str:
    rest = line[len(name) :]
    if rest.startswith("{"):
        separator = "" if rest[1:].lstrip().startswith("}") else ","
        return f'{name}{{process="{process}"{separator}{rest[1:]}'
    return f'{name}{{process="{process}"}}{rest}'


async def serve(host: str, port: int, collect: Collect) -> asyncio.Server:
    """GET /metrics, and nothing else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = head.decode("latin-1").split(" ", 2)
                if method != "GET" or path.split("?", 1)[0] != "/metrics":
                    status, body = "404 Not Found", b"Only GET /metrics is here.\n"
                else:
                    status, body = "200 OK", merge(await collect())
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # whoever asked has gone or does not speak HTTP
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port, limit=16 * 1024)
