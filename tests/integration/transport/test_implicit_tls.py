"""TLS from the first octet on (RFC 8314 §3.3): Postfix's smtps, and what is not as it should be."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from fakes import mtas
from fakes.smtp_server import SILENT, SmtpServer
from mailcore.smtp.outcome import Result
from mailcore.transport import Credentials, Destination, Hop, Mail, TlsPolicy
from mailcore.transport.base import Timeouts

from .harness import PATIENT, certificate, certificate_file, deliver, mail, to, until

SERVER, CLIENT = certificate("mx0.test")
IMPLICIT = {"tls": TlsPolicy.IMPLICIT, "tls_context": CLIENT}


@pytest.mark.peer("postfix")
async def test_postfix_takes_mail_on_its_smtps_port() -> None:
    if os.geteuid() != 0:
        pytest.skip("Postfix is started as root only")
    folder = Path(tempfile.mkdtemp(prefix="postroom-lab-"))
    folder.chmod(0o755)  # Postfix changes to users of its own
    pem = certificate_file("mx0.test", folder, rsa_bits=2048)
    try:
        async with SmtpServer() as sink:
            with mtas.postfix(folder / "mx", sink.port, pem, implicit=True) as port:
                hop = Hop("mx0.test", ("127.0.0.1",), port)
                trusted = certificate("mx0.test", rsa_bits=2048)[1]
                destination = Destination("postfix", (hop,), tls=TlsPolicy.IMPLICIT, tls_context=trusted)
                head = b"From: us@ours.test\r\nTo: bob@peer.test\r\nSubject: hi\r\nMessage-ID: <1@ours.test>\r\n\r\n"
                mails = [Mail("us@ours.test", "bob@peer.test", head + b"%d\r\n" % n, key=str(n)) for n in range(3)]
                run = await deliver(destination, mails)
                await until(lambda: len(sink.caught) == 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for outcome in run.outcomes.values():
        assert outcome.result is Result.DELIVERED and str(outcome.tls).startswith("TLSv1.3 ")
        assert not any(line.said == "STARTTLS" for line in outcome.conversation)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_the_password_is_said_within_tls_and_connections_are_kept(loop: str) -> None:
    async def run() -> None:
        async with SmtpServer(tls=SERVER, implicit=True, extensions=("PIPELINING", "AUTH PLAIN")) as server:
            destination = to(server, **IMPLICIT, credentials=Credentials("us", "pw"))
            done = await deliver(
                destination, [mail("a"), mail("b"), mail("c", b"x: y\r\n\r\n" + b"z" * 400_000 + b"\r\n")]
            )
            assert {outcome.result for outcome in done.outcomes.values()} == {Result.DELIVERED}
            (talk,) = server.talks
            assert talk.tls and [line.split()[0] for line in talk.commands[:2]] == ["EHLO", "AUTH"]
            assert len(server.caught[-1].content) > 400_000

    await (run() if loop == "asyncio" else asyncio.to_thread(uvloop.run, run()))


async def test_a_certificate_that_nobody_vouches_for_gets_nothing() -> None:
    for host, context in (("mx0.test", None), ("elsewhere.test", CLIENT)):
        async with SmtpServer(tls=SERVER, implicit=True) as server:
            hop = Hop(host, ("127.0.0.1",), server.port)
            destination = Destination("x", (hop,), tls=TlsPolicy.IMPLICIT, tls_context=context)
            outcome = (await deliver(destination, [mail("a")]))["a"]
            assert (outcome.result, outcome.rule) == (Result.DEFERRED, "tls-failed")
            assert not any(talk.commands for talk in server.talks) and server.caught == []


async def test_a_port_for_starttls_is_told_from_one_for_implicit_tls() -> None:
    """Its greeting in the clear is not taken for one, nor for TLS; one that says nothing costs its time limit, and no more."""
    quick = replace(PATIENT, connect=0.1, tls=0.2)
    async with SmtpServer(tls=SERVER) as clear, SmtpServer({"greeting": SILENT}, tls=SERVER) as silent:
        outcome = (await deliver(to(clear, **IMPLICIT), [mail("a")]))["a"]
        assert (outcome.result, outcome.rule) == (Result.DEFERRED, "tls-failed")
        assert clear.commands("EHLO") == []
        outcome = (await deliver(to(silent, **IMPLICIT), [mail("a")], timeouts=quick))["a"]
        assert (outcome.result, outcome.rule) == (Result.DEFERRED, "connect-failed")
        # and the other way round: a client that waits for the greeting of such a port
        async with SmtpServer(tls=SERVER, implicit=True) as wrapped:
            waits = Timeouts(greeting=0.3)
            outcome = (await deliver(to(wrapped, tls=TlsPolicy.REQUIRED), [mail("a")], timeouts=waits))["a"]
            assert (outcome.result, outcome.rule) == (Result.DEFERRED, "timeout")
