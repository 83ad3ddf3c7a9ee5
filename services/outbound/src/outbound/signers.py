"""Composes and signs in child processes: RSA is half of what a mail costs, and the loop need not share its interpreter with it.

A thread for each child hands it a chunk and waits. A child that dies takes no mail with it: what it had in hand is tried one by one
by the next, and a mail that ends its process by itself waits for its next attempt. Where no child can be started, threads compose.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

from mailcore.kit.log import logger
from mailcore.smtp.outcome import Outcome, Result
from mailcore.smtp.reply import Reply
from outbound.composer import CHUNK_BYTES, Composed, Work, compose_these
from outbound.signing import READY
from outbound.turns import Turns

log = logger(__name__)

PROGRAM = [sys.executable, "-m", "outbound.signing"]
THREADS = 3
"""Where there are no child processes."""
AGAIN_SECONDS = 10.0
"""After which a child that could not be started is tried again."""

_ENDED = Outcome(Result.DEFERRED, Reply(451, "the mail could not be composed", "4.3.0"), rule="internal-error")


class Signers:
    """`processes` child processes; 0: THREADS threads of this one. They start at once; mail that comes before they are there waits.

    `log_format` and `log_level`: as this process logs (mailcore.kit.log.configure).
    """

    def __init__(self, processes: int, *, log_format: str = "json", log_level: str = "info") -> None:
        self._threads = ThreadPoolExecutor(processes or THREADS, thread_name_prefix="sign")
        self._turns = Turns(self._threads)
        self._children = [_Child(log_format, log_level) for _ in range(processes)]
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        """As many as threads, so that a thread finds one."""
        for child in self._children:
            self._idle.put(child)

    async def compose(self, work: Sequence[Work], whose: Hashable) -> list[Composed]:
        """One for each, in turns with others' (`outbound.turns`)."""
        return await self._turns.run(whose, partial(self._compose, work))

    def pids(self) -> list[int]:
        """Of the children that have been started and not been missed yet."""
        return [child.pid for child in self._children if child.pid is not None]

    async def close(self) -> None:
        """Whoever still waits for mail to be composed gets an error."""
        for child in self._children:
            child.kill()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        for child in self._children:
            child.close()

    def _compose(self, work: Sequence[Work]) -> list[Composed]:
        if not self._children or _size(work) > CHUNK_BYTES:  # a large one is not worth two copies more
            return compose_these(work)
        child = self._idle.get()
        try:
            return child.compose(work)
        finally:
            self._idle.put(child)


def _size(work: Sequence[Work]) -> int:
    return sum(
        len(each.html or "")
        + len(each.text or "")
        + len(each.raw or b"")
        + sum(len(part.content) for part in each.parts)
        for each in work
    )


class _NotThere(Exception):
    """It cannot be started."""


class _Died(Exception):
    """While it had work."""


class _Child:
    """One process, and the next when it has died. One thread at a time."""

    def __init__(self, log_format: str, log_level: str) -> None:
        self._logs = [log_format, log_level]
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._not_before = 0.0
        self._closed = False
        self._start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def compose(self, work: Sequence[Work], *, last: bool = False) -> list[Composed]:
        """`last`: the one mail in it is not tried again."""
        try:
            return self._ask(work)
        except _NotThere:
            return compose_these(work)
        except _Died as died:
            if self._closed:
                raise
            log.error("a process that signs has died with mail in hand", mails=len(work), status=str(died))
            if last:
                log.error("a mail ends the process that composes it", email_id=str(work[0].content.id))
                return [_ENDED]
            return [self.compose([each], last=True)[0] for each in work]

    def kill(self) -> None:
        """For good. From any thread: who waits for an answer gets none."""
        self._closed = True
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """After `kill`, when nobody waits any more."""
        if self._process:
            self._end()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        # it needs none of our settings, and what it does not have it cannot give away
        everything = os.environ.items()  # noqa: TID251 - passed on, not read
        env = {name: value for name, value in everything if not name.startswith("POSTROOM_")}
        try:
            with theirs:
                self._process = subprocess.Popen([*PROGRAM, *self._logs], stdin=theirs.fileno(), env=env)  # noqa: S603
        except OSError as error:
            self._missed(str(error))
        else:
            self._answers = self._socket.makefile("rb")

    def _ask(self, work: Sequence[Work]) -> list[Composed]:
        if self._process is None:
            if self._closed or time.monotonic() < self._not_before:
                raise _NotThere
            self._start()
        if not self._ready:
            self._wait_until_ready()
        try:
            self._socket.sendall(pickle.dumps(work, pickle.HIGHEST_PROTOCOL))
            composed: list[Composed] = pickle.load(self._answers)  # noqa: S301 - from our own child
            return composed
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise _Died(self._end()) from error

    def _wait_until_ready(self) -> None:
        if self._process is None:
            raise _NotThere
        try:
            self._ready = self._answers.read(1) == READY
        except OSError:
            self._ready = False
        if not self._ready:
            self._missed(self._end())
            raise _NotThere

    def _end(self) -> str:
        """Its exit status, as a word; the next is started when there is work."""
        process, self._process, self._ready = self._process, None, False
        self._answers.close()
        self._socket.close()
        if process is None:
            return "none"
        process.kill()
        return str(process.wait())

    def _missed(self, why: str) -> None:
        self._socket.close()
        self._not_before = time.monotonic() + AGAIN_SECONDS
        log.error("a process that signs cannot be started; threads sign meanwhile", status=why)
