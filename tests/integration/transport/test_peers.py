"""Real peers, under uvloop as in production: Postfix's smtp-sink, and a server with TLS."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from fakes.smtp_server import CUT, SmtpServer, Step
from mailcore.smtp.outcome import Result
from mailcore.transport import Destination, Hop, Mail, MailQueue, Pool, TlsPolicy
from peers import free_port, peer

from .harness import PATIENT, certificate, deliver, mail, to, yes

BODY = b"Subject: %d\r\n\r\n" + b"..a line that begins with dots, and one that is a dot:\r\n.\r\nFrom here on\r\n" * 55


async def _listening(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[tuple[list[str], int]]:
    """What to start smtp-sink with, and its port."""
    command = [peer("smtp-sink")]
    if os.geteuid() == 0:
        command += ["-u", "nobody"]
    yield command, free_port()


@pytest.mark.peer("smtp-sink")
@pytest.mark.parametrize("options", [[], ["-p"], ["-e"]], ids=["esmtp", "no pipelining", "helo only"])
async def test_smtp_sink_takes_all_of_it(sink: tuple[list[str], int], options: list[str], tmp_path: Path) -> None:
    command, port = sink
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        if parent.name.startswith(("pytest", "popen")):
            parent.chmod(0o755)
    server = subprocess.Popen(
        [*command, *options, "-D", f"{tmp_path}/sunk", f"127.0.0.1:{port}", "100"], stderr=subprocess.PIPE
    )
    try:
        await _listening(port)
        count = 500
        outcomes: dict[object, object] = {}

        async def run() -> None:
            pool = Pool("ours.test", timeouts=PATIENT)
            mails = [Mail(f"b+{n}@ours.test", f"r{n}@peer.test", BODY % n, n) for n in range(count)]
            await pool.deliver(
                Destination("sink", (Hop("localhost", ("127.0.0.1",), port),)),
                MailQueue(mails, closed=True),
                connections=20,
                before_dot=yes,
                on_outcome=lambda m, o: outcomes.__setitem__(m.key, o.result),
            )
            await pool.close()

        await asyncio.to_thread(uvloop.run, run())
        assert Counter(outcomes.values()) == {Result.DELIVERED: count}
    finally:
        server.terminate()
        server.wait(20)
        if server.stderr:
            server.stderr.close()
    sunk = (tmp_path / "sunk").read_bytes()
    assert sunk.count(b"X-Rcpt-Args: <r") == count
    for n in (0, 1, count - 1):
        assert sunk.count(b"X-Rcpt-Args: <r%d@peer.test>" % n) == 1
        # smtp-sink writes a mailbox file: LF line ends, dots taken away
        start = sunk.index(b"Subject: %d\n" % n)
        want = (BODY % n).replace(b"\r\n", b"\n")
        assert sunk[start : start + len(want)] == want


async def test_tls_under_uvloop() -> None:
    """uvloop has its own TLS: opportunistic, verified, failing, injected."""

    async def run() -> None:
        server_tls, client_tls = certificate("mx0.test")
        async with SmtpServer(tls=server_tls) as server:
            for policy in (TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED):
                done = await deliver(to(server, tls=policy, tls_context=client_tls), [mail("a"), mail("b")])
                assert {o.result for o in done.outcomes.values()} == {Result.DELIVERED}
                assert str(done["a"].tls).startswith("TLSv1.3 ")
            done = await deliver(to(server, tls=TlsPolicy.REQUIRED), [mail("c")])
            assert done["c"].rule == "tls-failed"
            big = (b"x" * 998 + b"\r\n") * 3000
            done = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("d", big), mail("e")])
            assert {o.result for o in done.outcomes.values()} == {Result.DELIVERED}
            assert server.caught[-2].content == big
        async with SmtpServer({"starttls": Step("220 go\r\n", cut=True)}, extensions=("STARTTLS",)) as server:
            done = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")])
            assert done["a"].result is Result.DELIVERED
            assert done["a"].tls is None
        async with SmtpServer({"starttls": Step("220 go\r\n250 ok")}, tls=server_tls) as server:
            done = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")])
            assert done["a"].rule == "starttls-injection"
        async with SmtpServer({"dot": CUT}, tls=server_tls) as server:
            done = await deliver(to(server, tls=TlsPolicy.OPPORTUNISTIC), [mail("a")])
            assert done["a"].rule == "reply-lost"

    await asyncio.to_thread(uvloop.run, run())
