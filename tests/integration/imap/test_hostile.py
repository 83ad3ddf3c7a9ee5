"""A server that lies: nothing it says may hang us, exhaust us, or get a password in clear."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mailcore.kit.errors import MailError, Refused, Unavailable
from mailcore.transport.imap.client import ImapClient, Security

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


class Server:
    def __init__(self, greeting: bytes, answers: dict[bytes, bytes]) -> None:
        self.greeting = greeting
        self.answers = answers
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(self.greeting)
            while line := await reader.readline():
                self.heard.append(line)
                tag, _, command = line.rstrip().partition(b" ")
                for prefix, answer in self.answers.items():
                    if command.upper().startswith(prefix):
                        writer.write(answer.replace(b"TAG", tag))
                        await writer.drain()
                        break
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            pass
        finally:
            writer.close()


CAPABILITY = {b"CAPABILITY": b"* CAPABILITY IMAP4rev1 STARTTLS\r\nTAG OK done\r\n"}


@asynccontextmanager
async def _client(server: Server, security: Security = Security.NONE, timeout: float = 60) -> AsyncIterator[ImapClient]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        async with ImapClient.connect(
            "mail.test",
            port,
            addresses=["127.0.0.1"],
            security=security,
            tls=ssl.create_default_context(),
            timeout=timeout,
        ) as client:
            yield client
    finally:
        listener.close()


async def test_a4_starttls_that_is_missing_gets_no_password() -> None:
    server = Server(b"* OK hello\r\n", {b"CAPABILITY": b"* CAPABILITY IMAP4rev1\r\nTAG OK done\r\n"})
    with pytest.raises(Refused, match="STARTTLS"):
        async with _client(server, Security.STARTTLS) as client:
            await client.login("ann", "secret")
    assert not any(b"secret" in line or b"AUTH" in line for line in server.heard)


async def test_a4_what_comes_before_tls_is_not_believed() -> None:
    injected = b"TAG OK go on\r\n* CAPABILITY AUTH=PLAIN\r\n"
    server = Server(b"* OK hello\r\n", CAPABILITY | {b"STARTTLS": injected})
    with pytest.raises(Unavailable, match="between STARTTLS and TLS"):
        async with _client(server, Security.STARTTLS):
            pass


async def test_a4_preauth_does_not_skip_tls() -> None:
    with pytest.raises(Refused, match="before TLS"):
        async with _client(Server(b"* PREAUTH welcome\r\n", CAPABILITY), Security.STARTTLS):
            pass


async def test_a_disabled_login_gets_no_password() -> None:
    server = Server(b"* OK hello\r\n", {b"CAPABILITY": b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK\r\n"})
    with pytest.raises(Refused, match="no password"):
        async with _client(server) as client:
            await client.login("ann", "secret")
    assert not any(b"secret" in line for line in server.heard)


@pytest.mark.parametrize("name", ["a\r\nb LOGOUT", "a\nb", "a\0b"])
async def test_names_inject_no_commands(name: str) -> None:
    server = Server(b"* OK hello\r\n", CAPABILITY)
    with pytest.raises(Refused):
        async with _client(server) as client:
            await client.login(name, "x")
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"* 1 FETCH " + b"(" * 100_000 + b"\r\nTAG OK\r\n",
        b"* 1 FETCH (UID 1 BODY[HEADER]<0> {999999999}\r\n",
        b"* 1 FETCH (UID 1))\r\nTAG OK\r\n",
        b'* 1 FETCH (UID 1 BODY[HEADER] "never closed\r\nTAG OK\r\n',
        b"* 1 FETCH (UID 99999999999999 BODY[HEADER] {0}\r\n)\r\nTAG OK\r\n",
        b"x" * 100 + b"\r\n",
        b"* BYE gone\r\n",
        b"\x00\xff\xfe\r\n" * 5,
        b"* 2 EXISTS\r\n" * 60_000 + b"TAG OK\r\n",
    ],
)
async def test_garbage_is_unavailable_and_nothing_worse(answer: bytes) -> None:
    server = Server(b"* OK hello\r\n", CAPABILITY | {b"UID FETCH": answer})
    with pytest.raises(MailError):
        async with _client(server, timeout=3) as client:  # some of it never ends
            await client.headers([1])


async def test_twelve_hundred_lines_at_once_are_no_trouble() -> None:
    lines = b"".join(b"* %d FETCH (UID %d FLAGS (\\Seen))\r\n" % (n, n) for n in range(1, 1201))
    server = Server(b"* OK hello\r\n", CAPABILITY | {b"UID FETCH": lines + b"TAG OK\r\n"})
    async with _client(server) as client:
        assert await client.headers([1]) == [], "flags alone are no mail"


async def test_silence_ends_within_the_timeout() -> None:
    server = Server(b"* OK hello\r\n", CAPABILITY)
    with pytest.raises(Unavailable, match="in time"):
        async with _client(server, timeout=0.3) as client:
            await client.examine("INBOX")


async def test_a_mail_nobody_asked_for_is_left_alone() -> None:
    mail = b"* 1 FETCH (UID 7 RFC822.SIZE 10 BODY[HEADER]<0> {5}\r\nA: b\n)\r\n"
    server = Server(b"* OK hello\r\n", CAPABILITY | {b"UID FETCH": mail + b"TAG OK\r\n"})
    async with _client(server) as client:
        assert await client.headers([1]) == []
