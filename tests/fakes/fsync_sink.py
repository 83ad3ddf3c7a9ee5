"""An SMTP server that writes down each mail, with fsync, before its 250: what a sender may believe to be delivered is on disk.

    python tests/fakes/fsync_sink.py --listen 127.0.0.1:2525 --log FILE [--delay SECONDS]

A line of the log: `{"seq": X-Seq, "message_id", "rcpt", "at"}`. `--delay` passes between the fsync and the 250, as at a slow peer:
a sender that dies meanwhile cannot know. Pipelining; mails that end together share one fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import time
from typing import TextIO

SEQ = re.compile(rb"(?mi)^X-Seq: *([^\r\n]+)")
MESSAGE_ID = re.compile(rb"(?mi)^Message-ID: *([^\r\n]+)")


class Log:
    def __init__(self, path: str) -> None:
        self._file: TextIO = open(path, "a", encoding="ascii")  # noqa: SIM115
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._bell = asyncio.Event()

    async def write(self, line: str) -> None:
        """Returns when the line is on disk."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((line, done))
        self._bell.set()
        await done

    async def run(self) -> None:
        while True:
            await self._bell.wait()
            self._bell.clear()
            batch, self._waiting = self._waiting, []
            self._file.write("".join(line + "\n" for line, _ in batch))
            self._file.flush()
            await asyncio.to_thread(os.fsync, self._file.fileno())
            for _, done in batch:
                if not done.done():
                    done.set_result(None)


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Log, delay: float) -> None:
    async def say(text: str) -> None:
        writer.write(text.encode() + b"\r\n")
        await writer.drain()

    rcpt = ""
    try:
        await say("220 sink.test ESMTP")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                await say("250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME")
            elif verb == b"RCPT":
                rcpt = line.decode("ascii", "replace").partition("<")[2].partition(">")[0]
                await say("250 2.1.5 ok")
            elif verb == b"DATA":
                await say("354 go on")
                content = await reader.readuntil(b"\r\n.\r\n")
                seq, message_id = SEQ.search(content), MESSAGE_ID.search(content)
                entry = {
                    "seq": seq[1].decode() if seq else None,
                    "message_id": message_id[1].decode() if message_id else None,
                    "rcpt": rcpt,
                    "at": time.time(),
                }
                await log.write(json.dumps(entry))
                if delay:
                    await asyncio.sleep(delay)
                await say("250 2.0.0 on disk")
            elif verb == b"QUIT":
                await say("221 bye")
                return
            else:
                await say("250 2.0.0 ok")
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(host: str, port: int, path: str, delay: float) -> None:
    log = Log(path)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    writing = asyncio.create_task(log.run())
    server = await asyncio.start_server(lambda r, w: converse(r, w, log, delay), host, port, limit=1 << 22)
    async with server:
        await stop.wait()
    writing.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    name, _, number = arguments.listen.rpartition(":")
    asyncio.run(main(name, int(number), arguments.log, arguments.delay))
