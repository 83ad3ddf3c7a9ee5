"""One child process: started so that it cannot outlive us, its output kept in a file and watched for trouble.

The kernel sends a child its signal when the *thread* that started it ends (PR_SET_PDEATHSIG), so everything is started from
the main thread. SIGCHLD tells when one ended; no helper thread is involved, which keeps fork safe.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOG_LIMIT = 32 * 1024 * 1024
LINE_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a child runs as; None of these: as we do."""

    uid: int
    gid: int


def die_with_parent(death_signal: int) -> Callable[[], None]:
    """For `preexec_fn`: asks the kernel to send the signal when the parent is gone, also after kill -9."""
    parent = os.getpid()
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != parent:  # it was gone before we asked
                os._exit(1)

    return ask


class OutputLog(asyncio.Protocol):
    """Appends a child's output to its file, shows each line to `watch`, and remembers the last ones."""

    def __init__(self, path: Path, watch: Callable[[bytes], None]) -> None:
        self._path = path
        self._watch = watch
        self._file = path.open("ab", buffering=0)
        self._partial = b""
        self.last: deque[bytes] = deque(maxlen=12)

    def data_received(self, data: bytes) -> None:
        self._file.write(data)
        if self._file.tell() > LOG_LIMIT:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
        *lines, rest = (self._partial + data).split(b"\n")
        if len(rest) > LINE_LIMIT:
            lines.append(rest)
            rest = b""
        self._partial = rest
        for line in lines:
            self.last.append(line)
            self._watch(line)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._partial:
            self.last.append(self._partial)
            self._watch(self._partial)
        self._file.close()


@dataclass(slots=True)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    ended: asyncio.Future[int]
    output: OutputLog

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return not self.ended.done()

    def send(self, number: int) -> None:
        if self.running:
            self.process.send_signal(number)

    def how_it_ended(self) -> str:
        code = self.ended.result()
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class Children:
    """All children of this process. Call `watch` once, inside the loop, before the first start."""

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._running: list[Child] = []

    def watch(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        death_signal: int,
        cwd: Path | None = None,
        account: Account | None = None,
        watch: Callable[[bytes], None] = lambda line: None,
        log_name: str | None = None,
    ) -> Child:
        """Starts a program in a session of its own, so that Ctrl-C in the terminal reaches only us."""
        loop = asyncio.get_running_loop()
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once, and has to run in this thread
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent(death_signal),  # noqa: PLW1509 - this process has no threads that fork could hurt
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
        output = OutputLog(self._log_folder / f"{log_name or name}.log", watch)
        child = Child(name, process, loop.create_future(), output)
        self._running.append(child)
        await loop.connect_read_pipe(lambda: output, process.stdout)
        self._reap()  # it may have ended before we listened
        return child

    def _reap(self) -> None:
        for child in list(self._running):
            code = child.process.poll()
            if code is not None:
                self._running.remove(child)
                child.ended.set_result(code)

    def running(self) -> list[Child]:
        return list(self._running)


async def stop(child: Child, first: int, patience: float) -> bool:
    """Sends `first`; after `patience` seconds SIGKILL. True when it ended by itself."""
    child.send(first)
    await asyncio.wait([child.ended], timeout=patience)
    if child.ended.done():
        return True
    child.send(signal.SIGKILL)
    await child.ended
    return False
