"""SpamAssassin, rspamd and ClamAV as Debian has them, each a private instance on loopback; and servers that answer otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from peers import peer

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
"""In two pieces: this file is not to be found by a scanner."""
START_SECONDS = 100.0


@dataclass
class Daemon:
    argv: Sequence[str]
    port: int
    log: Path
    others: tuple[int, ...] = ()
    """Ports of its other workers: each begins to listen when it likes."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Returns when it takes connections, on each port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        until = time.monotonic() + START_SECONDS
        waited_for = [self.port, *self.others]
        while waited_for:
            try:
                socket.create_connection(("127.0.0.1", waited_for[0]), 1).close()
                del waited_for[0]
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{self.argv[0]} does not start: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """As a crash would end it, with the children that it has made."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)
            self.process = None


def spamd(folder: Path, port: int) -> Daemon:
    """Local rules only; it learns (TELL) into the folder."""
    folder.chmod(0o777)
    account = ["-u", "nobody"] if os.getuid() == 0 else []
    argv = [peer("spamd"), "-L", "--allow-tell", "-i", "127.0.0.1", "-p", str(port), "-m", "2", "-s", "stderr"]
    cf = f"bayes_path {folder}/bayes\nbayes_auto_learn 0"
    return Daemon([*argv, "-x", "-H", str(folder), f"--cf={cf}", *account], port, folder / "spamd.log")


def clamd(folder: Path, port: int, *, stream_max: str = "100M") -> Daemon:
    """With one signature, EICAR's, found anywhere in a file."""
    program, database = peer("clamd"), folder / "db"
    database.mkdir()
    (database / "test.ndb").write_text(f"Eicar-Test:0:*:{EICAR.hex()}\n")
    config = folder / "clamd.conf"
    config.write_text(
        f"TCPSocket {port}\nTCPAddr 127.0.0.1\nDatabaseDirectory {database}\nForeground yes\nScanMail yes\n"
        f"StreamMaxLength {stream_max}\nMaxThreads 4\nTemporaryDirectory {folder}\n"
    )
    return Daemon([program, "-c", str(config)], port, folder / "clamd.log")


def rspamd(folder: Path, port: int) -> Daemon:
    """Without the rules of its distribution, whose patterns take it a quarter of a minute to compile."""
    folder.chmod(0o777)
    (folder / "tld.dat").write_text("com\norg\ntest\nexample\n")
    config = folder / "rspamd.conf"
    config.write_text(
        f'options {{ url_tld = "{folder}/tld.dat"; filters = "chartable"; disable_hyperscan = true; tempdir = "{folder}";\n'
        '  dns { nameserver = ["127.0.0.1:9"]; timeout = 0.3s; retransmits = 1; } }\n'
        'logging { type = "console"; level = "notice"; }\n'
        "actions { reject = 15; add_header = 6; greylist = 4; }\n"
        f'worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}\n'
    )
    places = [f"--var={name}={folder}" for name in ("DBDIR", "RUNDIR", "LOGDIR")]
    account = ["-u", "nobody", "-g", "nogroup"] if os.getuid() == 0 else []
    return Daemon([peer("rspamd"), "-f", "-i", "-c", str(config), *places, *account], port, folder / "rspamd.log")


@asynccontextmanager
async def saying(
    answer: bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that reads to the end of what it is sent and says this, or does that; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if callable(answer):
                await answer(reader, writer)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while await reader.read(65_536):
                        pass
            writer.write(answer)
            await writer.drain()
        except OSError:
            return
        finally:
            writer.transport.abort() if callable(answer) else writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
