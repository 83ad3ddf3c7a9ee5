"""A load that writes down what was accepted, faults at random moments, and the oracle that counts (reliability.md §5)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import httpx
import redis

from peers import free_port
from stack import Stack, wait_for

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def fsync_sink(folder: Path, port: int, delay: float) -> Iterator[Path]:
    """The sink as a process of its own; yields its log."""
    log = folder / "sink.log"
    argv = [sys.executable, str(ROOT / "tests/fakes/fsync_sink.py"), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*argv, "--log", str(log), "--delay", str(delay)])
    try:
        wait_for(lambda: _listens(port), "the sink listens")
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


class Load(threading.Thread):
    """Sends `total` numbered mails, each until it is accepted, with the same idempotency key at each try; then, slowly, more until
    `enough` is set."""

    def __init__(self, stack: Stack, folder: Path, total: int, workers: int = 4) -> None:
        super().__init__(name="load")
        self._url, self._key = stack.dev["api_url"], stack.dev["api_key"]
        self._file = (folder / "accepted.log").open("a", encoding="ascii")
        self._lock = threading.Lock()
        self._total = total
        self._numbers = itertools.count()
        self._workers = workers
        self.enough = threading.Event()
        self.accepted: dict[str, str] = {}
        """Number → id of the email; each on disk before the next is sent."""
        self.unanswered = 0
        self.refused: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, name=f"load {n}") for n in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._file.close()

    def _work(self) -> None:
        headers = {"authorization": f"Bearer {self._key}"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=20) as client:
            while True:
                with self._lock:
                    number = next(self._numbers)
                if number >= self._total and self.enough.wait(0.2):
                    return
                self._send(client, str(number))

    def _send(self, client: httpx.Client, number: str) -> None:
        mail = {
            "from": "faults@postroom.test",
            "to": f"r{number}@example.org",
            "subject": f"Number {number}",
            "text": "One of many.",
            "headers": {"X-Seq": number},
        }
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                answer = client.post("/emails", json=mail, headers={"idempotency-key": f"seq-{number}"})
            except httpx.HTTPError:
                self.unanswered += 1
            else:
                if answer.status_code == 200:
                    self._note(number, answer.json()["id"])
                    return
                if answer.status_code < 500 and answer.status_code != 409:
                    self.refused.append(f"{answer.status_code} {answer.text[:200]}")
                    return
            time.sleep(0.1)  # a client's pause before it tries again
        self.refused.append(f"{number}: never accepted")

    def _note(self, number: str, id_: str) -> None:
        with self._lock:
            self._file.write(f"{number} {id_}\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self.accepted[number] = id_


@dataclass
class Faults:
    """What is done to the stack while the load runs and the queue empties."""

    kills: int
    flushes: int
    restarts: int
    pause: tuple[float, float]
    """Seconds between two faults, at random."""
    seed: int
    signers: int = 0
    """Kills of a child process that composes and signs."""
    aimed: bool = False
    """Kills wait until a process has mail in hand, and the load goes on until all is done: for short runs, which would else now and
    then hit nothing."""
    done: Counter[str] = field(default_factory=Counter)

    def run(self, stack: Stack, alive: Callable[[], bool]) -> None:
        chance = random.Random(self.seed)
        plan = ["kill"] * self.kills + ["flush"] * self.flushes + ["restart"] * self.restarts
        plan += ["signer"] * self.signers
        chance.shuffle(plan)
        for fault in plan:
            time.sleep(chance.uniform(*self.pause))  # the moment of a fault is the point here
            if not alive():
                return
            getattr(self, f"_{fault}")(stack, chance)
            self.done[fault] += 1

    def _kill(self, stack: Stack, chance: random.Random) -> None:
        wanted = (lambda: asyncio.run(at_work(_superuser(stack)))) if self.aimed else (lambda: stack.pids("outbound"))
        running = wait_for(lambda: [pid for pid in wanted() if _runs(pid)], "an outbound to kill")
        os.kill(chance.choice(running), signal.SIGKILL)

    @staticmethod
    def _signer(stack: Stack, chance: random.Random) -> None:
        def running() -> list[int]:
            listed = ["ps", "-o", "pid=", "--ppid", ",".join(map(str, stack.pids("outbound")))]
            found = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()
            return [pid for pid in map(int, found) if _runs(pid)]

        with suppress(ProcessLookupError):
            os.kill(chance.choice(wait_for(running, "a process that signs")), signal.SIGKILL)

    @staticmethod
    def _flush(stack: Stack, _: random.Random) -> None:
        with redis.Redis.from_url(stack.dev["redis_url"]) as client:
            client.flushall()

    @staticmethod
    def _restart(stack: Stack, _: random.Random) -> None:
        (postmaster,) = stack.pids("postgres")
        os.kill(postmaster, signal.SIGQUIT)  # immediate shutdown: nothing is written out, the next start recovers
        wait_for(lambda: not _runs(postmaster), "the old Postgres is gone")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# ---- the oracle ------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """What a run came to; from `loss` on all must be 0."""

    accepted: int
    reached: int
    kills: int
    lost_attempts: int
    """Attempts that ended with their worker's death."""
    repeats: int
    marked: int
    """Repeats whose delivery says possible_duplicate."""
    loss: int
    phantom: int
    silent: int
    stuck: int
    not_delivered: int
    """Bounced, failed, expired, quarantined, suppressed."""
    event_gaps: int
    """Deliveries without exactly one final event."""

    @property
    def green(self) -> bool:
        bad = (self.loss, self.phantom, self.silent, self.stuck, self.not_delivered, self.event_gaps)
        return not any(bad) and self.accepted == self.reached

    def __str__(self) -> str:
        return "  ".join(f"{name}={value}" for name, value in asdict(self).items())


async def count(database_url: str, accepted: dict[str, str], unanswered: int, sink: Path, kills: int) -> Count:
    entries = [json.loads(line) for line in sink.read_text().splitlines()]
    copies = Counter(str(entry["seq"]) for entry in entries)
    db = await asyncpg.connect(database_url)
    try:
        rows = await db.fetch("SELECT email_id::text AS id, state, possible_duplicate FROM deliveries")
        final = await db.fetch(
            "SELECT object_id::text AS id, count(*) AS n FROM events "
            "WHERE type IN ('email.delivered', 'email.bounced', 'email.failed', 'email.suppressed') GROUP BY 1"
        )
        stuck = await db.fetchval("SELECT count(*) FROM queue")
        lost_attempts = await db.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'lost'")
    finally:
        await db.close()
    marked = {row["id"] for row in rows if row["possible_duplicate"]}
    events = {row["id"]: row["n"] for row in final}
    mine = set(accepted.values())
    repeated = [seq for seq, n in copies.items() if n > 1]
    return Count(
        accepted=len(accepted),
        reached=len(copies.keys() & accepted.keys()),
        kills=kills,
        lost_attempts=lost_attempts,
        repeats=sum(copies[seq] - 1 for seq in repeated),
        marked=sum(copies[seq] - 1 for seq in repeated if accepted.get(seq) in marked),
        loss=len(accepted.keys() - copies.keys()),
        phantom=max(0, len(copies.keys() - accepted.keys()) - unanswered),
        silent=sum(copies[seq] - 1 for seq in repeated if accepted.get(seq) not in marked),
        stuck=stuck + sum(1 for row in rows if row["id"] in mine and row["state"] in ("queued", "scheduled")),
        not_delivered=sum(
            1 for row in rows if row["state"] in ("bounced", "failed", "expired", "quarantined", "suppressed")
        ),
        event_gaps=sum(1 for row in rows if row["id"] in mine and events.get(row["id"], 0) != 1),
    )


async def at_work(database_url: str) -> list[int]:
    """Process ids of the workers that hold leases."""
    db = await asyncpg.connect(database_url)
    try:
        rows = await db.fetch("SELECT pid FROM workers WHERE id IN (SELECT worker FROM queue)")
    finally:
        await db.close()
    return [row["pid"] for row in rows]


async def empty(database_url: str) -> bool:
    try:
        db = await asyncpg.connect(database_url)
    except (OSError, asyncpg.PostgresError):
        return False
    try:
        return not await db.fetchval("SELECT EXISTS (SELECT FROM queue)")
    finally:
        await db.close()


def run(
    folder: Path,
    *,
    total: int,
    faults: Faults,
    env: dict[str, str] | None = None,
    quiet_seconds: float = 180.0,
    delay: float = 0.2,
    processes: int = 2,
) -> Count:
    """One run: load and faults side by side, then quiet, then the count. The seed is printed; with it a run can be repeated."""
    sink_port = free_port()
    print(f"\nseed {faults.seed}")
    settings = {
        "POSTROOM_OUTBOUND__ROUTE": "catch",
        "POSTROOM_OUTBOUND__CATCH_HOST": f"127.0.0.1:{sink_port}",
        "POSTROOM_OUTBOUND__PROCESSES": str(processes),
        "POSTROOM_QUEUE__LEASE_SECONDS": "3",
        "POSTROOM_QUEUE__SWEEP_SECONDS": "1",
        "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
        **(env or {}),
    }
    with fsync_sink(folder, sink_port, delay) as sink, Stack(folder / "stack", env=settings) as stack:
        load = Load(stack, folder, total)
        if not faults.aimed:
            load.enough.set()
        load.start()
        superuser = _superuser(stack)
        try:
            faults.run(stack, lambda: load.is_alive() or not asyncio.run(empty(superuser)))
        finally:
            load.enough.set()
            load.join()
        assert load.refused == []
        try:
            wait_for(lambda: asyncio.run(empty(superuser)), "the queue is empty", quiet_seconds)
        except AssertionError:
            print("the queue did not become empty")
        found = asyncio.run(count(superuser, load.accepted, load.unanswered, sink, faults.done["kill"]))
        if not found.green:
            print(stack.log("outbound")[-4000:])
    print(found, dict(faults.done))
    return found


def _superuser(stack: Stack) -> str:
    """Row-level security shows the services' login nothing: the oracle looks as the superuser."""
    secrets = dict(line.split("=", 1) for line in (stack.data / "secrets.env").read_text().splitlines() if "=" in line)
    url = urlsplit(stack.dev["database_url"])
    password = secrets["POSTROOM_POSTGRES_PASSWORD"].strip("'\"")
    return f"postgresql://postgres:{quote(password, safe='')}@{url.hostname}:{url.port}{url.path}"
