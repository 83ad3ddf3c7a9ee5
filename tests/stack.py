"""A whole Postroom for tests that look at it from outside: `postroom up` as a child process in a folder of its own.

    with Stack(tmp_path) as stack:
        stack.dev["api_url"], stack.dev["api_key"], ...
        stack.kill("outbound")            SIGKILL; returns when the supervisor has started it again
        stack.caught(to="you@example.com")

`env` adds settings (`{"POSTROOM_OUTBOUND__PROCESSES": "2"}`) to those of CALM. On leaving it is stopped with SIGTERM and has to end
with 0.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mailcore.blob.caught import Caught, list_caught, read_raw
from peers import claim, is_free

T = TypeVar("T")
CALM = {
    "POSTROOM_DNS__TIMEOUT_SECONDS": "15",
    "POSTROOM_DATABASE__CONNECT_SECONDS": "30",
    "POSTROOM_WEBHOOKS__TIMEOUT_SECONDS": "60",
}
"""A machine that stands still for a while is no failure: what is given up after so long is told as a fault of the other side."""
SPAN = 60  # ports from the base on that are a stack's; the last is left free


def free_base() -> int:
    """A base from which on all ports of a stack are free and this process's alone (`claim`), away from those that the kernel gives
    out by itself."""
    while True:
        base = claim(range(12_000, 32_000 - SPAN, SPAN), SPAN)
        if all(is_free(base + offset) for offset in range(SPAN - 1)):
            return base


def wait_for(check: Callable[[], T | None], what: str, seconds: float = 100.0) -> T:
    """The first true value that `check` gives; fails loudly when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def traversable(folder: Path) -> None:
    """Root's Postgres runs as `nobody`, who has to pass through pytest's private folders, however they are named: where he may not,
    the cluster is put elsewhere (`local/away.py`), and is still there when pytest has removed its folders."""
    if os.getuid() == 0:
        path = [folder, *folder.parents]
        temporary = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")}
        ours = max(
            (n for n, each in enumerate(path[:-1]) if each.name.startswith("pytest-") or path[n + 1] in temporary),
            default=0,
        )
        for each in path[: ours + 1]:
            each.chmod(each.stat().st_mode | 0o011)


class Stack:
    def __init__(
        self,
        folder: Path,
        port_base: int | None = None,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        ready_seconds: float = 200.0,
    ) -> None:
        self.folder = folder
        self.port_base = port_base or free_base()
        self.env = dict(env or {})
        self.arguments = arguments
        self.ready_seconds = ready_seconds
        self.data = folder / "data"
        self.console = folder / "console.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._begins = 0

    def start(self) -> Stack:
        self.folder.mkdir(parents=True, exist_ok=True)
        traversable(self.folder)
        own = {n: v for n, v in os.environ.items() if not n.startswith("POSTROOM_")}
        command = [sys.executable, "-m", "postroom", "up", "--data", str(self.data), "--port-base", str(self.port_base)]
        self._begins = len(self.output())
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(
                [*command, *self.arguments], stdout=console, stderr=subprocess.STDOUT, env={**own, **CALM, **self.env}
            )
        wait_for(self._is_ready, f"Postroom is ready (see {self.console})", self.ready_seconds)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"postroom up ended with {self.process.returncode}:\n{self.output()}")
        return (self.data / "dev.json").exists() and "Postroom is ready" in self.output()[self._begins :]

    @property
    def dev(self) -> dict[str, Any]:
        """dev.json as it is now: process ids change when a part is started again."""
        content: dict[str, Any] = json.loads((self.data / "dev.json").read_text())
        return content

    def output(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def log(self, part: str) -> str:
        path = self.data / "log" / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def pids(self, group: str) -> list[int]:
        return list(self.dev["pids"].get(group, []))

    def kill(self, group: str, number: int = signal.SIGKILL) -> list[int]:
        """Sends the signal to every process of a group and waits until dev.json holds new ones; those."""
        before = self.pids(group)
        assert before, f"nothing of {group} runs"
        for pid in before:
            os.kill(pid, number)

        def renewed() -> list[int] | None:
            now = self.pids(group)
            return now if len(now) == len(before) and not set(now) & set(before) else None

        return wait_for(renewed, f"{group} started again")

    def caught(self, to: str | None = None) -> list[Caught]:
        return list_caught(self.data / "caught", to)

    def raw(self, mail: Caught) -> bytes:
        content = read_raw(self.data / "caught", mail.id)
        assert content is not None
        return content

    def stop(self, number: int = signal.SIGTERM, seconds: float = 110.0) -> int:
        """Stops it and gives its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(f"postroom up did not stop within {seconds:.0f} s:\n{self.output()}") from None

    def __enter__(self) -> Stack:
        try:
            return self.start()
        except BaseException:
            if self.process is not None and self.process.poll() is None:
                self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = self.stop()
        assert error is not None or code == 0, f"postroom up ended with {code}:\n{self.output()}"
