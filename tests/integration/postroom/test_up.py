"""`postroom up` as a user meets it: start, dev.json, parts that die, stopping, and what is wrong said in one line."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from postroom.local.devfile import settings_of
from stack import Stack, free_base, traversable, wait_for

# two of api share one port; what the other services do is told by their own tests
LIGHT = {
    "POSTROOM_API__PROCESSES": "2",
    "POSTROOM_INBOUND_SMTP__PROCESSES": "0",
    "POSTROOM_OUTBOUND__PROCESSES": "0",
    "POSTROOM_IMAP_SYNC__PROCESSES": "0",
    "POSTROOM_WEBHOOKS__PROCESSES": "0",
}
BARE = {**LIGHT, "POSTROOM_API__PROCESSES": "0"}
"""What is under the services alone."""
KEYS = {
    *("api_url", "web_url", "api_key", "org_id", "admin_email", "admin_password", "mx", "submission", "submissions"),
    *("relay", "catcher", "dns", "tls_ca", "metrics_url", "ops", "database_url", "redis_url", "pids"),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("up"), env=LIGHT) as stack:
        yield stack


def refused(folder: Path, *arguments: str, base: int | None = None, env: dict[str, str] | None = None) -> str:
    """Runs `postroom up`, which has to end with exit code 1, and gives the last line of what it says."""
    traversable(folder)
    own = {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
    command = [
        sys.executable,
        "-m",
        "postroom",
        "up",
        "--data",
        str(folder / "data"),
        "--port-base",
        str(base or free_base()),
    ]
    ended = subprocess.run(
        [*command, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**own, **LIGHT, **(env or {})},
        timeout=300,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert not (folder / "data" / "dev.json").exists()
    return ended.stderr.strip()


def get(url: str, **headers: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return answer.status, answer.read()


def is_ready(url: str) -> bool:
    try:
        return get(f"{url}/readyz")[0] == 200
    except (OSError, HTTPException):
        return False


def test_dev_json_says_where_everything_is(stack: Stack) -> None:
    dev = stack.dev
    assert set(dev) == KEYS
    assert stat.S_IMODE((stack.data / "dev.json").stat().st_mode) == 0o600
    base = stack.port_base
    assert dev["api_url"] == f"http://127.0.0.1:{base}"
    assert (dev["mx"], dev["catcher"], dev["dns"]) == tuple(f"127.0.0.1:{base + offset}" for offset in (1, 5, 7))
    assert dev["relay"] is None
    assert (dev["submission"], dev["submissions"]) == (f"127.0.0.1:{base + 2}", f"127.0.0.1:{base + 3}")
    assert set(dev["ops"]) == {"api", "api-2"}
    assert {group: len(pids) for group, pids in dev["pids"].items()} == {
        "postgres": 1,
        "redis": 1,
        "catcher": 1,
        "dns": 1,
        "api": 2,
    }
    for url in (dev["api_url"], *dev["ops"].values()):
        wait_for(lambda url=url: is_ready(url), f"{url} is ready")
    assert Path(dev["tls_ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_metrics_of_all_processes_are_in_one_place(stack: Stack) -> None:
    def of_both() -> str | None:
        """One that does not answer in time is left out."""
        status, body = get(stack.dev["metrics_url"])
        assert status == 200
        there = [f'process_resident_memory_bytes{{process="{name}"}}'.encode() in body for name in ("api", "api-2")]
        return body.decode() if all(there) else None

    text = wait_for(of_both, "metrics of both processes")
    assert text.count("# TYPE process_resident_memory_bytes gauge") == 1


async def test_postgres_keeps_what_it_confirmed(stack: Stack) -> None:
    connection = await asyncpg.connect(stack.dev["database_url"])
    try:
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SELECT datlocprovider FROM pg_database WHERE datname = 'postroom'") == b"b"
        assert await connection.fetchval("SELECT lower('ÀÉÖ')") == "àéö"
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    finally:
        await connection.close()
    wrong = stack.dev["database_url"].replace("postroom:", "postroom:x", 1)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)


def test_redis_wants_its_password(stack: Stack) -> None:
    host, port = stack.dev["redis_url"].rsplit("@", 1)[1].split("/")[0].split(":")
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100).startswith(b"-NOAUTH")


def test_no_secret_stands_in_the_list_of_processes(stack: Stack) -> None:
    secrets = [line.split("=", 1)[1] for line in (stack.data / "secrets.env").read_text().splitlines() if "=" in line]
    assert len(secrets) == 4
    for pid in [pid for pids in stack.dev["pids"].values() for pid in pids]:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        assert not [secret for secret in secrets if secret in command]


def test_services_do_not_learn_who_may_migrate(stack: Stack) -> None:
    for pid in stack.pids("api"):
        names = {item.split(b"=")[0] for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert b"POSTROOM_DATABASE__URL" in names
        assert b"POSTROOM_DATABASE__MIGRATE_URL" not in names


def test_doctor_finds_nothing_wrong(stack: Stack) -> None:
    command = [sys.executable, "-m", "postroom", "doctor", "--json", "--data", str(stack.data)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    findings: list[dict[str, Any]] = json.loads(ended.stdout)
    assert ended.returncode == 0, findings
    assert [finding["check"] for finding in findings if not finding["ok"]] == []
    assert len(findings) == 13
    sending = [finding["check"] for finding in findings[9:]]
    assert sending == ["sending: route", "sending: clock", "sending: queue", "sending: refusal"]


def test_a_running_stack_is_examined_by_the_settings_that_it_was_started_with(stack: Stack) -> None:
    known = settings_of(stack.data)
    assert known["POSTROOM_API__PROCESSES"] == "2", "given to `up`, and to nobody else"
    assert known["POSTROOM_OUTBOUND__ROUTE"] == "catch"
    assert stat.S_IMODE((stack.data / "settings.json").stat().st_mode) == 0o600, "secrets are among them"
    assert {name for name in known if not name.startswith("POSTROOM_")} == set()


def test_doctor_says_what_to_do(stack: Stack) -> None:
    env = {
        "POSTROOM_DATABASE__URL": stack.dev["database_url"],
        "POSTROOM_REDIS__URL": "redis://127.0.0.1:1/0",
        "POSTROOM_BLOB__URL": "file:///proc/nowhere",
        "POSTROOM_DATABASE__POOL_SIZE": "100",
        "POSTROOM_ENCRYPTION_KEY": "00" * 32,
        "POSTROOM_DNS__NAMESERVERS": "127.0.0.1:1",
        "POSTROOM_DNS__TIMEOUT_SECONDS": "0.2",
        "POSTROOM_OUTBOUND__EHLO_NAME": "mail.postroom.test",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "postroom", "doctor", "--json"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=300)
    findings = {finding["check"]: finding for finding in json.loads(ended.stdout)}
    assert ended.returncode == 1
    assert {name for name, finding in findings.items() if finding["ok"]} == {
        *("encryption key", "database", "roles", "sending: clock", "sending: queue", "sending: refusal"),
    }
    assert "EHLO_NAME" in findings["sending: ehlo"]["text"]
    assert "POSTROOM_REDIS__URL" in findings["redis"]["text"]
    assert "max_connections" in findings["connections"]["text"]
    assert "MIGRATE_URL" in findings["migration"]["text"]


def test_a_second_stack_on_the_folder_is_refused(stack: Stack) -> None:
    command = [sys.executable, "-m", "postroom", "up", "--data", str(stack.data), "--port-base", str(free_base())]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert stack.process is not None
    assert ended.returncode == 1
    assert f"process {stack.process.pid}) already uses" in ended.stderr
    assert stack.dev["pids"]


@pytest.mark.parametrize("group", ["api", "catcher", "dns", "redis", "postgres"])
def test_a_killed_part_is_started_again(stack: Stack, group: str) -> None:
    old = stack.pids(group)
    stack.kill(group)
    assert f"{group} was killed by SIGKILL; starting it again" in stack.output()
    assert not [pid for pid in old if Path(f"/proc/{pid}").exists()]
    wait_for(lambda: is_ready(stack.dev["api_url"]), "ready again")


def test_a_second_start_finds_everything_again(tmp_path: Path) -> None:
    stack = Stack(tmp_path, env=BARE).start()
    first = stack.dev
    assert stack.stop(signal.SIGINT) == 0
    assert not (stack.data / "dev.json").exists()
    assert stack.output().endswith("Postroom has stopped\n")
    with stack:
        again = stack.dev
    for key in ("api_key", "org_id", "admin_password", "database_url", "redis_url"):
        assert again[key] == first[key]
    assert get_pids_alive(first) == get_pids_alive(again) == []


def get_pids_alive(dev: dict[str, Any]) -> list[int]:
    return [pid for pids in dev["pids"].values() for pid in pids if Path(f"/proc/{pid}").exists()]


def test_one_stop_that_arrives_twice_kills_nothing(tmp_path: Path) -> None:
    """make hands on the SIGTERM that `timeout` and supervisors send to the whole group: `postroom up` sees it twice."""
    with Stack(tmp_path, env=BARE) as stack:
        assert stack.process is not None
        # held until both are there: a second one that comes a second later is another stop
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT):
            stack.process.send_signal(number)
        assert stack.stop(signal.SIGCONT) == 0
        assert "Told twice" not in stack.output()


def test_kill_of_up_leaves_no_orphan_and_the_next_start_works(tmp_path: Path) -> None:
    stack = Stack(tmp_path, env=LIGHT).start()
    dev = stack.dev
    assert stack.process is not None
    stack.process.kill()
    stack.process.wait(60)
    with stack:  # at once: while the old ones are still on their way out
        wait_for(lambda: not get_pids_alive(dev), "no orphan")
        assert stack.dev["api_key"] == dev["api_key"]


def test_a_stale_pid_file_with_a_strangers_number_is_survived(tmp_path: Path) -> None:
    stack = Stack(tmp_path, env=BARE).start()
    pid_file = stack.data / "pg" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    assert stack.stop() == 0
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with stack:
        assert int(pid_file.read_text().splitlines()[0]) == stack.pids("postgres")[0]


def test_live_mode_has_no_catcher_and_no_lab(tmp_path: Path) -> None:
    with Stack(tmp_path, env=LIGHT, arguments=("--mode", "live")) as stack:
        assert (stack.dev["catcher"], stack.dev["dns"]) == (None, None)
        assert set(stack.dev["pids"]) == {"postgres", "redis", "api"}
        assert not (stack.data / "dns" / "postroom.test.json").exists()


def test_postgres_16_will_do(tmp_path: Path) -> None:
    with Stack(tmp_path, env=BARE, arguments=("--postgres", "16")) as stack:
        assert "Postgres 16 started" in stack.output()
    assert (stack.data / "pg" / "PG_VERSION").read_text().strip() == "16"


@pytest.mark.parametrize(("offset", "what"), [(0, "HTTP"), (5, "catcher"), (7, "DNS"), (20, "Postgres"), (21, "Redis")])
def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, offset: int, what: str) -> None:
    base = free_base()
    with socket.create_server(("127.0.0.1", base + offset)):
        line = refused(tmp_path, base=base)
    assert f"Port {base + offset} ({what})" in line
    assert "stop that program" in line
    assert not (tmp_path / "data" / "pg").exists()


def test_folders_of_newer_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data" / "pg").mkdir(parents=True)
    (tmp_path / "data" / "version").write_text("999\n")
    assert "newer Postroom" in refused(tmp_path)
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secrets.env").write_text(
        "POSTROOM_ENCRYPTION_KEY=x\nPOSTROOM_POSTGRES_PASSWORD=x\nPOSTROOM_DATABASE_PASSWORD=x\nPOSTROOM_REDIS_PASSWORD=x\n"
    )
    (tmp_path / "data" / "pg").mkdir()
    (tmp_path / "data" / "pg" / "PG_VERSION").write_text("99\n")
    assert "written by Postgres 99" in refused(tmp_path)


def test_a_wrong_encryption_key_is_refused(tmp_path: Path) -> None:
    assert "must be 32 bytes" in refused(tmp_path, env={"POSTROOM_ENCRYPTION_KEY": "short"})
    with Stack(tmp_path, env=BARE):
        pass
    line = refused(tmp_path, env={"POSTROOM_ENCRYPTION_KEY": "00" * 32})
    assert "is not the key this database was set up with" in line


def test_a_service_that_cannot_start_is_given_up_with_its_own_words(tmp_path: Path) -> None:
    line = refused(tmp_path, env={"POSTROOM_API__PROCESSES": "1", "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "many"})
    assert line.startswith("Giving up: api")
    assert "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mode", "loud"), "use catch or live"),
        (("--postgres", "9"), "use 18 or 16"),
        (("--port-base", "65530"), "leaves no room"),
    ],
)
def test_wrong_arguments_are_said(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(tmp_path, *arguments)
