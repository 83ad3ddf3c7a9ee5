"""Keeps parts running: what ends without being asked to is started again, and said so.

The first crash is answered at once; the next ones after 0.2 s, doubling to 10 s; 30 s of health make it a first crash again.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from postroom.console import CannotStart, say, warn

from .child import Account, Child, Children, stop

HEALTHY_SECONDS = 30.0
FIRST_DELAY = 0.2
LONGEST_DELAY = 10.0
HOPELESS = 5
"""Crashes in a row, before the stack has ever been ready, after which starting it is given up."""


def delay_after(crashes: int) -> float:
    """Seconds to wait before a part is started again that has crashed this many times in a row."""
    return 0.0 if crashes <= 1 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(crashes - 2, 16))


def loud_json(line: bytes) -> str | None:
    """What to show of a service's log line: nothing below warning."""
    if not line.startswith(b"{") or not any(word in line for word in (b"warn", b"error", b"critical")):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    level = str(entry.get("level", "")).lower()
    if level not in ("warning", "warn", "error", "critical"):
        return None
    shown = {
        name: value
        for name, value in entry.items()
        if name not in ("level", "event", "timestamp", "service", "exception")
    }
    reason = str(entry.get("exception") or "").strip().rsplit("\n", 1)[-1]  # of a traceback, the line that says what
    details = " ".join([*(f"{name}={value}" for name, value in shown.items()), reason])
    return f"{level}: {entry.get('event', '')} {details}".rstrip()[:400]


def silent(line: bytes) -> str | None:
    return None


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Part:
    """`name` is its log file and what the console calls it; `group` is its key in dev.json."""

    name: str
    group: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    death_signal: int = signal.SIGKILL
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 15.0
    cwd: Path | None = None
    account: Account | None = None
    before: Callable[[], Awaitable[None]] = _nothing
    loud: Callable[[bytes], str | None] = loud_json


class Supervisor:
    def __init__(self, log_folder: Path, changed: Callable[[], None]) -> None:
        """`changed` is called after a part was started again: its process id is another one."""
        self._children = Children(log_folder)
        self._changed = changed
        self._running: dict[str, tuple[Part, Child]] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._asked_to_restart: set[int] = set()
        self.been_ready = False
        self.hopeless: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._children.watch()

    async def start(self, part: Part) -> Child:
        """Starts a part and keeps it running from now on. Raises CannotStart when it cannot even be executed."""
        child = await self._start(part)
        self._keepers[part.name] = asyncio.create_task(self._keep(part, child))
        return child

    async def run(self, part: Part) -> Child:
        """Runs a part that is to end by itself (the migration), and waits for it."""
        child = await self._start(part)
        try:
            await asyncio.shield(child.ended)
        finally:
            if child.running:
                await stop(child, signal.SIGTERM, 5.0)
            self._running.pop(part.name, None)
        return child

    def pids(self) -> dict[str, list[int]]:
        pids: dict[str, list[int]] = {}
        for part, child in self._running.values():
            if child.running:
                pids.setdefault(part.group, []).append(child.pid)
        return pids

    def running(self, name: str) -> bool:
        return name in self._running and self._running[name][1].running

    def restart(self, groups: Sequence[str]) -> None:
        """Asks every part of these groups to end; their keepers start them again at once."""
        for part, child in list(self._running.values()):
            if part.group in groups:
                self._asked_to_restart.add(child.pid)
                child.send(part.stop_signal)

    async def stop_all(self, stages: Sequence[Sequence[str]]) -> None:
        """Stops the groups stage by stage; within a stage at the same time. A part that does not end in its time is killed."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        for stage in stages:
            await asyncio.gather(
                *(self._stop(part, child) for part, child in self._running.values() if part.group in stage)
            )

    def kill_all(self) -> None:
        for _, child in self._running.values():
            child.send(signal.SIGKILL)

    async def _stop(self, part: Part, child: Child) -> None:
        if child.running and not await stop(child, part.stop_signal, part.stop_seconds):
            warn(f"{part.name} did not stop within {part.stop_seconds:.0f} s and was killed")

    async def _start(self, part: Part) -> Child:
        await part.before()

        def watch(line: bytes) -> None:
            shown = part.loud(line)
            if shown is not None:
                warn(f"{part.name}: {shown}")

        try:
            child = await self._children.start(
                part.name,
                part.argv,
                environment=part.environment,
                death_signal=part.death_signal,
                cwd=part.cwd,
                account=part.account,
                watch=watch,
            )
        except OSError as error:
            raise CannotStart(f"{part.name} cannot be started: {error}. Check {part.argv[0]}.") from None
        self._running[part.name] = (part, child)
        return child

    async def _keep(self, part: Part, first: Child) -> None:
        child: Child | None = first
        crashes, reason = 0, ""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            if child is not None:
                await asyncio.shield(child.ended)
                reason = f"{child.how_it_ended()}{_last_words(child)}"
                if child.pid in self._asked_to_restart:
                    self._asked_to_restart.discard(child.pid)
                    crashes, started = 0, loop.time()
                crashes = 1 if loop.time() - started >= HEALTHY_SECONDS else crashes + 1
            if not self.been_ready and crashes >= HOPELESS and not self.hopeless.done():
                self.hopeless.set_result(f"{part.name} {reason}")
            delay = delay_after(crashes)
            warn(f"{part.name} {reason}; starting it again{f' in {delay:.1f} s' if delay else ''}")
            await asyncio.sleep(delay)
            try:
                child = await self._start(part)
            except CannotStart as error:
                child, reason, crashes = None, str(error), crashes + 1
                continue
            say(f"{part.name} started again (process {child.pid})")
            self._changed()


def _last_words(child: Child) -> str:
    """Of a child that gave up by itself: what it said last, unless that is a log line (those are shown as they come)."""
    if child.ended.result() <= 0:
        return ""
    words = [line.decode(errors="replace").strip() for line in child.output.last if not line.startswith(b"{")]
    said = [line for line in words if line]
    return f" ({said[-1][:300]})" if said else ""
