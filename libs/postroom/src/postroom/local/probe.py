"""One small HTTP request to a part of our own stack on loopback: readiness and metrics. Not for anybody else's server."""

from __future__ import annotations

import asyncio

_LIMIT = 32 * 1024 * 1024


async def get(host: str, port: int, path: str, *, timeout: float = 5.0) -> tuple[int, bytes] | None:
    """Status and body of a GET; None when there is no answer within `timeout` seconds."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(None, 2)[1])
                body = b""
                while len(body) < _LIMIT and (chunk := await reader.read(256 * 1024)):
                    body += chunk
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError):
        return None
    return (status, body) if b"transfer-encoding: chunked" not in head.lower() else None
