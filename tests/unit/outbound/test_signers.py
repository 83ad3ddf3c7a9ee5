"""The processes that sign: same bytes as here, and what happens when they die, hang, or cannot be started."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.mime.compose import Part
from mailcore.smtp.outcome import Outcome, Result
from outbound import signing
from outbound.composer import CHUNK_BYTES, Composed, Work, compose_these
from outbound.signers import ENDED_IN_A_ROW, PROGRAM, Signers, _Died
from outbound.tracking import Tracker
from unit.outbound.test_composer import ED, KEYS, RSA, content


@pytest.fixture
async def one() -> AsyncIterator[Signers]:
    made = Signers(1)
    made.start()
    yield made
    await made.close()


def work(subject: str = "Hello", **changes: Any) -> Work:
    row = content(subject=subject, **changes)
    return Work(row, row.html, row.text, (), KEYS, row.raw, Tracker("https://track.test", b"k" * 32))


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ended(pid: int) -> None:
    for _ in range(3_000):
        if not runs(pid):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{pid} still runs")


async def test_a_child_makes_the_same_bytes(one: Signers) -> None:
    mails = [
        work(),
        work(html=None, text="only text"),
        work(html='<a href="https://x.test">x</a>', track_clicks=True, track_opens=True),
        work(raw=b"From: us@us.test\r\nTo: you@you.test\r\n\r\nhello\r\n", html=None),
        Work(content(), "<p>x</p>", None, (Part(b"\x00" * 1000, "application/octet-stream", "x.bin"),), KEYS),
        Work(content(), "<p>x</p>", None, (), ()),
    ]
    composed = await one.compose(mails, "us")
    assert composed == compose_these(mails)
    assert [type(each) for each in composed] == [bytes] * 5 + [Outcome]


async def test_a_key_is_a_key_on_the_other_side(one: Signers) -> None:
    """Also one that comes after others, and in the place of another of the same name."""
    for private in (RSA, ED, RSA):
        key = SigningKey.load("s", "us.test", private)
        row = content()
        mail = Work(row, row.html, row.text, (), (key,))
        assert await one.compose([mail], "us") == compose_these([mail])


async def test_a_child_that_was_killed_between_two_chunks_is_not_missed(one: Signers) -> None:
    (before,) = one.pids()
    mails = [work(f"number {n}") for n in range(3)]
    assert await one.compose(mails, "us") == compose_these(mails)
    os.kill(before, signal.SIGKILL)
    await ended(before)
    assert await one.compose(mails, "us") == compose_these(mails)
    (after,) = one.pids()
    assert after != before
    os.kill(after, signal.SIGKILL)
    await ended(after)
    assert await one.compose(mails[:1], "us") == compose_these(mails[:1])


async def test_what_ends_outbound_does_not_end_a_child(one: Signers) -> None:
    (pid,) = one.pids()
    assert await one.compose([work()], "us")
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    assert await one.compose([work()], "us")
    assert one.pids() == [pid]


async def test_a_mail_that_ends_its_process_waits_and_the_others_are_signed(tmp_path: Path) -> None:
    """The child is ours, with one line more: it dies of a subject."""
    program = poison(tmp_path, "os._exit(11)")
    deadly = Signers(1, program=program)
    try:
        mails = [work("one"), work("poison"), work("three")]
        composed = await deadly.compose(mails, "us")
        assert is_put_off(composed[1])
        assert [composed[0], composed[2]] == compose_these([mails[0], mails[2]])
        assert await deadly.compose([mails[0]], "us") == compose_these([mails[0]])
    finally:
        await deadly.close()


async def test_a_mail_that_takes_for_ever_ends_its_process(tmp_path: Path) -> None:
    slow = Signers(1, program=poison(tmp_path, "\n        while True: pass", seconds=1))
    try:
        (composed,) = await slow.compose([work("poison")], "us")
        assert is_put_off(composed)
    finally:
        await slow.close()


def poison(folder: Path, does: str, seconds: int = signing.SECONDS) -> list[str]:
    """The program, which does that with a mail of the subject `poison`."""
    program = f"""
import os, sys
from outbound import composer, signing
signing.SECONDS = {seconds}
compose_one = composer.compose_one
def deadly(work, now):
    if work.content.subject == "poison": {does}
    return compose_one(work, now)
composer.compose_one = deadly
signing.main()
"""
    path = folder / "deadly.py"
    path.write_text(program)
    return [sys.executable, str(path)]


def is_put_off(composed: Composed) -> bool:
    return isinstance(composed, Outcome) and (composed.result, composed.rule) == (Result.DEFERRED, "internal-error")


async def test_a_mail_that_was_in_hand_is_not_composed_here_when_no_other_child_can_be_started(tmp_path: Path) -> None:
    program = poison(tmp_path, "os._exit(11)")
    deadly = Signers(1, program=program)
    try:
        assert await deadly.compose([work("one")], "us")
        program[:] = ["/bin/false"]
        assert all(map(is_put_off, await deadly.compose([work("one"), work("poison")], "us")))
        assert is_put_off((await deadly.compose([work("two")], "us"))[0]) is False
    finally:
        await deadly.close()


async def test_where_every_mail_ends_the_child_it_is_not_the_mails(tmp_path: Path) -> None:
    program = poison(tmp_path, "os._exit(11)")
    deadly = Signers(1, program=program)
    try:
        for _ in range(ENDED_IN_A_ROW):
            assert is_put_off((await deadly.compose([work("poison")], "us"))[0])
        mails = [work("poison")]
        assert await deadly.compose(mails, "us") == compose_these(mails)
    finally:
        await deadly.close()


@pytest.mark.parametrize("argv", [["/nowhere/at/all"], ["/bin/false"], ["/bin/echo", "not the word" * 10]])
async def test_where_no_child_can_be_started_threads_sign(argv: list[str]) -> None:
    program = [*argv]
    await signs_here_and_then_there(program, lambda: program.__setitem__(slice(None), PROGRAM))


async def test_where_there_are_no_descriptors_left_threads_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("socket.socketpair", none_left)
    await signs_here_and_then_there(PROGRAM, monkeypatch.undo)


async def signs_here_and_then_there(program: list[str], mend: Callable[[], None]) -> None:
    without = Signers(2, program=program)
    without.start()
    try:
        mails = [work("one"), work("two")]
        for _ in range(3):
            assert await without.compose(mails, "us") == compose_these(mails)
        mend()
        for child in without._children:
            child._not_before = 0.0
        assert await without.compose(mails, "us") == compose_these(mails)
        assert without.pids()
    finally:
        await without.close()


async def test_a_child_that_says_nothing_is_taken_for_dead(one: Signers) -> None:
    mails = [work("one"), work("two")]
    assert await one.compose(mails, "us")
    (pid,) = one.pids()
    one._children[0]._socket.settimeout(0.2)
    os.kill(pid, signal.SIGSTOP)
    assert await one.compose(mails, "us") == compose_these(mails)
    assert not runs(pid)


async def test_a_child_that_does_not_become_ready_is_not_waited_for() -> None:
    silent = Signers(1, program=["/bin/sh", "-c", "sleep 60"], patience=0.2)
    try:
        mails = [work("one")]
        assert await silent.compose(mails, "us") == compose_these(mails)
    finally:
        await silent.close()


async def test_what_is_left_in_the_socket_is_nobodys_answer(one: Signers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is full as an answer is to be read: the next one asks another child."""
    alice, bob = [work("for Alice: her secret")], [work("for Bob")]
    assert await one.compose(alice, "us")
    load = pickle.load

    def full(_: object) -> NoReturn:
        monkeypatch.setattr(pickle, "load", load)
        raise MemoryError

    monkeypatch.setattr(pickle, "load", full)
    assert await one.compose(alice, "us") == compose_these(alice)
    assert await one.compose(bob, "us") == compose_these(bob)
    # and an answer that is whole, but to something else
    one._children[0]._number += 1
    child = one._children[0]
    child._socket.sendall(pickle.dumps((-1, alice)))
    assert await one.compose(bob, "us") == compose_these(bob)


async def test_what_cannot_be_handed_over_is_composed_here(one: Signers) -> None:
    mail = work(raw=memoryview(b"From: us@us.test\r\nTo: you@you.test\r\n\r\nhello\r\n").tobytes(), html=None)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    odd = mail._replace(content=mail.content._replace(dsn={"deep": deep}))
    assert await one.compose([odd], "us") == compose_these([mail])


async def test_a_large_chunk_is_composed_here(one: Signers, monkeypatch: pytest.MonkeyPatch) -> None:
    (pid,) = one.pids()
    assert await one.compose([work()], "us")
    os.kill(pid, signal.SIGSTOP)
    try:
        large = [Work(content(), "<p>x</p>", None, (Part(bytes(CHUNK_BYTES + 1), "text/plain", "x"),), KEYS)]
        assert await one.compose(large, "us") == compose_these(large)
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_closing_ends_the_children_and_whoever_waits() -> None:
    closing = Signers(1)
    assert await closing.compose([work()], "us")
    (pid,) = closing.pids()
    os.kill(pid, signal.SIGSTOP)
    waiting = [asyncio.create_task(closing.compose([work()], "us")) for _ in range(5)]
    await asyncio.sleep(0.1)
    await closing.close()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in found} <= {_Died, RuntimeError, list}
    assert any(isinstance(each, _Died) for each in found)
    await ended(pid)


async def test_a_child_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Killed, so that nothing of it runs any more."""
    program = "import time\nfrom outbound.signers import Signers\n"
    program += "s = Signers(2)\ns.start()\nprint(*s.pids(), flush=True)\ntime.sleep(60)\n"
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in (await parent.stdout.readline()).split()]
    assert len(pids) == 2 and all(map(runs, pids))
    parent.kill()
    await parent.wait()
    for pid in pids:
        await ended(pid)


async def test_a_child_has_no_secret_of_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POSTROOM_ENCRYPTION_KEY", "postroom_encryption_key", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "00" * 32)
    secretive = Signers(1)
    try:
        assert await secretive.compose([work()], "us")
        (pid,) = secretive.pids()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PATH=" in environment
        assert b"0000" not in environment
    finally:
        await secretive.close()


async def test_without_processes_threads_sign() -> None:
    threads = Signers(0)
    try:
        assert threads.pids() == []
        mails = [work("one"), work("two")]
        assert await threads.compose(mails, "us") == compose_these(mails)
    finally:
        await threads.close()
