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
from outbound.signing import SECONDS, SHAPE
from outbound.turns import Turns

log = logger(__name__)

PROGRAM = [sys.executable, "-m", "outbound.signing"]
if sys.flags.safe_path:
    PROGRAM[1:1] = ["-I" if sys.flags.isolated else "-P"]
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ", "LC_", "PYTHON", "MALLOC_")
"""How names in the environment of a child begin: it needs nothing else, and what it does not have it cannot give away."""
THREADS = 3
"""Where there are no child processes."""
PATIENCE = 2.0 * SECONDS
"""Seconds for a child to start, or to send or take something; one that was stopped, say, is taken for dead then."""
AGAIN_SECONDS = 10.0
"""After which a child that could not be started is tried again."""
ENDED_IN_A_ROW = 3
"""Mails that have each ended a child, and none in between did not: it is not the mails."""

_ENDED = Outcome(Result.DEFERRED, Reply(451, "the mail could not be composed", "4.3.0"), rule="internal-error")


class Signers:
    """`processes` child processes; 0: THREADS threads of this one.

    `log_format` and `log_level`: as this process logs (mailcore.kit.log.configure). `program`: what children run. In
    seconds `patience`: how long one may be silent; `again_seconds`: after which one that could not be started is tried again.
    """

    def __init__(
        self,
        processes: int,
        *,
        log_format: str = "json",
        log_level: str = "info",
        program: Sequence[str] = PROGRAM,
        patience: float = PATIENCE,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        # one thread more, for what is too large for a child
        self._threads = ThreadPoolExecutor(processes + 1 if processes else THREADS, thread_name_prefix="sign")
        self._turns = Turns(self._threads)
        self._children = [_Child(program, [log_format, log_level], patience, again_seconds) for _ in range(processes)]
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        for child in self._children:
            self._idle.put(child)

    def start(self) -> None:
        """The children; without it they are started when there is work. What comes before they are there waits."""
        for child in self._children:
            child.start()

    async def compose(self, work: Sequence[Work], whose: Hashable) -> list[Composed]:
        """One for each, in turns with others' (`outbound.turns`)."""
        return await self._turns.run(whose, partial(self._compose, work))

    def pids(self) -> list[int]:
        """Of the children that have been started and not been missed yet."""
        return [child.pid for child in self._children if child.pid is not None]

    async def close(self) -> None:
        """Whoever still waits for mail to be composed gets an error."""
        self._turns.close()
        for child in self._children:
            child.kill()
        await asyncio.to_thread(self._threads.shutdown)
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


def _light(work: Work) -> Work:
    """Attachments are in its parts."""
    return work._replace(content=work.content._replace(attachments=[])) if work.content.attachments else work


class _NotThere(Exception):
    """It cannot be started."""


class _Died(Exception):
    """While it had work."""


class _Child:
    """One process, and the next when it has died. One thread at a time, but for `kill`."""

    def __init__(self, program: Sequence[str], arguments: Sequence[str], patience: float, again_seconds: float) -> None:
        self._program = program
        self._arguments = arguments
        self._patience = patience
        self._again_seconds = again_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._number = 0
        """Of the chunk: an answer to another one is not taken."""
        self._not_before = 0.0
        self._ended = 0
        """Mails in a row that have ended it."""
        self._closed = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """It is ready later, or not."""
        try:
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            self._missed(str(error))
            return
        self._socket.settimeout(self._patience)
        self._answers = self._socket.makefile("rb")
        everything = os.environ.items()  # noqa: TID251 - passed on, not read
        env = {name: value for name, value in everything if name.startswith(PASSED_ON)}
        command = [*self._program, *self._arguments]
        with theirs:
            try:
                # a group of its own: Ctrl-C is for outbound, which ends it when nothing is in hand
                self._process = subprocess.Popen(command, stdin=theirs.fileno(), env=env, process_group=0)  # noqa: S603
            except OSError as error:
                self._missed(str(error))
                self._end()

    def compose(self, work: Sequence[Work]) -> list[Composed]:
        try:
            return self._ask(work)
        except _NotThere:
            return compose_these(work)
        except _Died as died:
            if self._closed:
                raise
            log.error("a process that signs has died with mail in hand", mails=len(work), status=str(died))
            return [self._compose_suspect(each) for each in work]

    def _compose_suspect(self, work: Work) -> Composed:
        """It was in hand when a child died: never here, where it would end all that outbound has in hand."""
        try:
            return self._ask([work])[0]
        except _NotThere:
            return _ENDED
        except _Died as died:
            if self._closed:
                raise
            log.error("a mail ends the process that composes it", email_id=str(work.content.id), status=str(died))
            self._ended += 1
            if self._ended == ENDED_IN_A_ROW:
                self._ended = 0
                self._missed("it ends whatever it is given")
            return _ENDED

    def kill(self) -> None:
        """For good. From any thread: who waits for an answer gets none."""
        self._closed = True
        if process := self._process:
            process.kill()

    def close(self) -> None:
        """After `kill`, when nobody waits any more."""
        if self._process:
            self._end()

    def _ask(self, work: Sequence[Work]) -> list[Composed]:
        self._number += 1
        try:
            asked = pickle.dumps((self._number, list(map(_light, work))), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # composing tells which of them it is
            raise _NotThere from error
        self._be_ready()
        try:
            self._socket.sendall(asked)
            number, composed = pickle.load(self._answers)  # noqa: S301 - from our own child
            if number != self._number or len(composed) != len(work):
                raise EOFError("an answer to something else")
        except BaseException as error:  # whatever is left in the socket is nobody's answer
            raise _Died(self._end() or repr(error)) from error
        self._ended = 0
        found: list[Composed] = composed
        return found

    def _be_ready(self) -> None:
        if self._ready:
            return
        if self._process is None:
            if self._closed or time.monotonic() < self._not_before:
                raise _NotThere
            self.start()
        if self._process is None:
            raise _NotThere
        try:
            self._ready = self._answers.read(len(SHAPE)) == SHAPE
        except OSError:
            pass
        if not self._ready:
            self._missed(self._end() or "it is not of this version")
            raise _NotThere

    def _end(self) -> str:
        """How it ended, empty if by this; the next is started when there is work."""
        process, self._process, self._ready = self._process, None, False
        self._answers.close()
        self._socket.close()
        if process is None:
            return ""
        status = process.poll()
        process.kill()
        try:
            process.wait(self._patience)
        except subprocess.TimeoutExpired:
            log.error("a process that signs cannot be ended", pid=process.pid)
        return "" if status is None else f"exit status {status}"

    def _missed(self, why: str) -> None:
        self._not_before = time.monotonic() + self._again_seconds
        if not self._closed:
            log.error("a process that signs cannot be started; threads sign meanwhile", error=why)
