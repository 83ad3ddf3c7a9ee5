"""The guarded client against real sockets. 127.0.0.2 stands for the open Internet, every other loopback address for the inside."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import suites
from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Blocked, Guard, GuardedClient

OPEN = [ipaddress.ip_network("127.0.0.2/32")]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Listens on all of loopback and remembers at which address each connection came in."""

    def __init__(self) -> None:
        self.connections: list[str] = []
        self.requests: list[bytes] = []
        self.server_names: list[str | None] = []
        self.answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.serve: Serve | None = None
        self.port = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer.get_extra_info("sockname")[0])
        try:
            if self.serve is not None:
                await self.serve(reader, writer)
                return
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                self.requests.append(head + (await reader.readexactly(length) if length else b""))
                writer.write(self.answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.connected, "0.0.0.0", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()


class Rebinding:
    """Gives its answers in turn, then the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
async def client_for() -> AsyncIterator[Callable[..., GuardedClient]]:
    clients: list[GuardedClient] = []

    def make(resolve: Rebinding | None = None, tls: ssl.SSLContext | None = None) -> GuardedClient:
        client = GuardedClient(
            Guard("webhooks", OPEN, resolve=resolve or Rebinding(["127.0.0.2"])), tls=tls, connect_seconds=60
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


ClientFor = Callable[..., GuardedClient]


async def test_a_request_arrives_as_it_was_meant(client_for: ClientFor, listener: Listener) -> None:
    listener.answer = b"HTTP/1.1 201 Made\r\nX-It: 1\r\nContent-Length: 5\r\n\r\nhello"
    answer = await client_for().request(
        "POST", f"http://hook.example:{listener.port}/a?b=c", headers={"x-one": "1"}, content=b'{"a":1}'
    )
    assert (answer.status, answer.body, answer.truncated, answer.ip) == (201, b"hello", False, "127.0.0.2")
    assert answer.headers["x-it"] == "1"
    head, _, body = listener.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /a?b=c HTTP/1.1"
    assert {b"Host: hook.example:%d" % listener.port, b"x-one: 1", b"Content-Length: 7"} <= set(lines)
    assert body == b'{"a":1}'


async def test_a_second_answer_of_the_name_server_changes_nothing(client_for: ClientFor, listener: Listener) -> None:
    resolve = Rebinding(["127.0.0.2"], ["127.0.0.1"])
    client = client_for(resolve)
    url = f"http://rebind.example:{listener.port}/"
    assert (await client.request("POST", url)).status == 200
    assert resolve.asked == 1
    for _ in range(3):
        with pytest.raises(Blocked):
            await client.request("POST", url)
    assert listener.connections == ["127.0.0.2"]


@pytest.mark.parametrize(
    "answer", [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["::ffff:127.0.0.1"], ["::1"]]
)
async def test_a_closed_address_among_them_closes_all(
    client_for: ClientFor, listener: Listener, answer: list[str]
) -> None:
    with pytest.raises(Blocked):
        await client_for(Rebinding(answer)).request("POST", f"http://mixed.example:{listener.port}/")
    assert listener.connections == []


async def test_no_url_of_the_suite_connects(client_for: ClientFor, listener: Listener) -> None:
    vectors = suites.vectors("ssrf-vectors")
    client = client_for(Rebinding(["127.0.0.1"]))
    urls = [f"http://{host}:{listener.port}/" for host in vectors["host_spellings_must_block"]]
    urls += [
        f"http://[{vector['ip']}]:{listener.port}/"
        for vector in vectors["ip"]
        if ":" in vector["ip"] and not vector["allow"]
    ]
    urls += [
        f"http://{vector['ip']}:{listener.port}/"
        for vector in vectors["ip"]
        if ":" not in vector["ip"] and not vector["allow"]
    ]
    urls += vectors["urls_must_block"]
    for url in urls:
        with pytest.raises(Blocked):
            await client.request("POST", url, deadline=60)
    assert listener.connections == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(client_for: ClientFor, listener: Listener, status: int) -> None:
    location = f"http://127.0.0.1:{listener.port}/inside".encode()
    listener.answer = b"HTTP/1.1 %d Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)
    client = client_for()
    url = f"http://hook.example:{listener.port}/"
    assert (await client.request("POST", url, content=b"x", redirects=5)).status == status
    assert (await client.request("GET", url)).status == status
    with pytest.raises(Blocked):
        await client.request("GET", url, redirects=5)
    assert set(listener.connections) == {"127.0.0.2"}


async def test_a_followed_redirect_leaves_the_headers_behind(client_for: ClientFor, listener: Listener) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.requests.append(await reader.readuntil(b"\r\n\r\n"))
        if b"/first" in listener.requests[-1]:
            writer.write(
                b"HTTP/1.1 302 x\r\nLocation: //other.example:%d/next\r\nContent-Length: 0\r\n\r\n" % listener.port
            )
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nend")
        await writer.drain()

    listener.serve = serve
    answer = await client_for().request(
        "GET", f"http://hook.example:{listener.port}/first", headers={"authorization": "Bearer x"}, redirects=1
    )
    assert answer.body == b"end"
    assert b"authorization" in listener.requests[0] and b"authorization" not in listener.requests[1]
    assert b"other.example" in listener.requests[1]


async def _endless_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def _endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def _dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for octet in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000:
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_an_endless_body_is_read_up_to_its_limit(client_for: ClientFor, listener: Listener) -> None:
    listener.serve = _endless_body
    answer = await client_for().request("POST", f"http://hook.example:{listener.port}/", max_body=10_000)
    assert (answer.status, len(answer.body), answer.truncated) == (200, 10_000, True)


@pytest.mark.parametrize("serve", [_endless_headers, _dripping])
async def test_an_endless_head_ends(client_for: ClientFor, listener: Listener, serve: Serve) -> None:
    listener.serve = serve
    with pytest.raises(Unavailable):
        await client_for().request("POST", f"http://hook.example:{listener.port}/", deadline=0.5)


async def test_the_next_address_is_tried_when_one_does_not_listen(client_for: ClientFor, listener: Listener) -> None:
    guard = Guard(
        "webhooks",
        [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")],
        resolve=Rebinding(["::1", "127.0.0.3"]),
    )
    client = GuardedClient(guard, connect_seconds=60)
    assert (await client.request("GET", f"http://two.example:{listener.port}/")).ip == "127.0.0.3"
    await client.close()


async def test_connections_are_kept_for_their_own_name_only(client_for: ClientFor, listener: Listener) -> None:
    client = client_for()
    for host in ("a.example", "a.example", "b.example", "a.example"):
        await client.request("POST", f"http://{host}:{listener.port}/", content=b"x")
    assert len(listener.connections) == 2
    assert len(listener.requests) == 4


async def test_header_injection_sends_nothing(client_for: ClientFor, listener: Listener) -> None:
    with pytest.raises(Unavailable):
        await client_for().request("POST", f"http://a.example:{listener.port}/", headers={"x": "a\r\nEvil: 1"})
    assert listener.requests == []


async def test_proxies_of_the_environment_are_not_used(
    client_for: ClientFor, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await client_for().request("GET", f"http://a.example:{listener.port}/")).status == 200


def _certificate(folder: Path, host: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_tls_is_with_the_name_although_the_address_is_pinned(client_for: ClientFor, tmp_path: Path) -> None:
    cert_file, key_file = _certificate(tmp_path, "good.example")
    listener = Listener()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    context.sni_callback = lambda _socket, name, _context: listener.server_names.append(name)
    server = await asyncio.start_server(listener.connected, "127.0.0.2", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(cert_file))
    try:
        answer = await client_for(tls=trusting).request("POST", f"https://good.example:{port}/", content=b"x")
        assert (answer.status, answer.ip) == (200, "127.0.0.2")
        with pytest.raises(Unavailable, match="certificate"):
            await client_for(tls=trusting).request("POST", f"https://other.example:{port}/", content=b"x")
        with pytest.raises(Unavailable, match="certificate"):
            await client_for().request("POST", f"https://good.example:{port}/", content=b"x")
        assert listener.server_names == ["good.example", "other.example", "good.example"]
        assert len(listener.requests) == 1
    finally:
        server.close()
