import json

from postroom.local import postgres
from postroom.local.supervisor import delay_after, loud_json


def test_the_first_crash_is_answered_at_once_then_ever_later() -> None:
    assert [delay_after(crashes) for crashes in range(1, 9)] == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert delay_after(10_000) == 10.0


def test_only_warnings_and_worse_reach_the_console() -> None:
    def line(level: str, **more: str) -> bytes:
        return json.dumps({"event": "errors are rare", "level": level, "service": "api", **more}).encode()

    assert loud_json(line("info")) is None
    assert loud_json(line("warning", host="a.test")) == "warning: errors are rare host=a.test"
    assert (loud_json(line("error")) or "").startswith("error: errors are rare")
    failed = line("error", exception="Traceback (most recent call last):\n  File x\nValueError: too long")
    assert loud_json(failed) == "error: errors are rare ValueError: too long"
    assert loud_json(b"Traceback (most recent call last): error") is None
    assert loud_json(b'{"level": "error"') is None


def test_of_postgres_only_what_ends_the_server_reaches_the_console() -> None:
    head = b"2026-11-21 08:00:00.000 UTC [12] "
    assert postgres.loud(head + b"PANIC:  could not write to file") == "PANIC:  could not write to file"
    assert postgres.loud(head + b'FATAL:  lock file "postmaster.pid" already exists') is not None
    assert postgres.loud(head + b"FATAL:  terminating connection due to administrator command") is None
    assert postgres.loud(head + b"ERROR:  duplicate key value") is None
