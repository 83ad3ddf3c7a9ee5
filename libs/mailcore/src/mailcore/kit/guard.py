"""What a tenant may make us connect to: every URL and host that a tenant can name goes through here.

1. the URL is read strictly: http or https, no user, no control characters, no port of another protocol
2. the host is brought to one form (kit.addresses) and resolved; every address must be open to the purpose
3. the connection goes to the address that was checked, never to the name, so that a second answer of the name server changes
   nothing; certificate and Host header are those of the name
4. all of it again at each redirect, where redirects are followed at all, and at each retry
5. the answer is read up to a size, everything together up to a deadline; proxies of the environment are not used

Networks are opened by the operator per purpose: POSTROOM_NETWORK__ALLOW__<PURPOSE>.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias
from urllib.parse import quote, urljoin

import certifi
import httpcore

from mailcore.kit.addresses import Address, Network, parse_address, parse_host, refusal
from mailcore.kit.errors import Invalid, Refused, Unavailable

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[str]]]
"""A name to its addresses; none when there is no such name. Raises Unavailable when it could not be found out."""

MAX_URL = 2048
KEEPALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which common servers close: a request must not meet a connection that is being closed."""
MAX_IDLE = 256
LOOKUP_THREADS = 64

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?\Z", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{0,5}))?\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Fetch standard, "port blocking": other protocols' ports, whose servers could be made to take an HTTP request for their own
# fmt: off
_CLOSED_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540,
    548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
    6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on
_METADATA_NAMES = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Blocked(Refused):
    """What was named may not be connected to. `public` says why, without telling what a name resolves to."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that passed the reading; its host is not yet resolved."""

    scheme: str
    host: Address | str
    port: int
    path: str
    """Path and query, percent-encoded."""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if isinstance(self.host, IPv6Address) else str(self.host)
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Lower-case names; of a repeated one the last."""
    body: bytes
    """At most `max_body` octets."""
    truncated: bool
    ip: str
    """The address that answered."""


class Guard:
    """The checks of one purpose: `webhooks`, `imap`, `ai`, `local_mail`, `attachments`, `images`, `mx`."""

    def __init__(self, purpose: str, allow: Sequence[Network] = (), *, resolve: Resolve | None = None) -> None:
        self.purpose = purpose
        self._allow = tuple(allow)
        self._resolve = resolve or SystemResolver()
        self._lookups: dict[str, asyncio.Task[list[Address]]] = {}

    def check_url(self, url: str) -> Target:
        """Reads a URL and checks what can be checked without asking anybody. Raises Blocked."""
        if len(url) > MAX_URL:
            raise Blocked(f"A URL has at most {MAX_URL} characters.")
        if any(char <= " " or char in "\\\x7f" for char in url):
            raise Blocked("A URL has no spaces, control characters or backslashes.")
        match = _URL.match(url)
        if match is None or not match["authority"]:
            raise Blocked("Give a whole URL, such as https://example.com/path.")
        scheme = match["scheme"].lower()
        if scheme not in _DEFAULT_PORTS:
            raise Blocked("The URL must start with https:// or http://.")
        if "@" in match["authority"]:
            raise Blocked("The URL must not have a user name or password in it.")
        authority = _AUTHORITY.match(match["authority"])
        if authority is None or not authority["host"]:
            raise Blocked("The URL's host cannot be read.")
        port = int(authority["port"] or _DEFAULT_PORTS[scheme])
        if port > 65535 or port in _CLOSED_PORTS:
            raise Blocked(f"Port {port} is not for HTTP. Use another port.")
        host = self._read_host(authority["host"])
        path = quote(match["target"], safe="/?%:@!$&'()*+,;=-._~[]|")
        return Target(scheme, host, port, path if path.startswith("/") else "/" + path)

    async def check_host(
        self, host: str, port: int, *, ports: Collection[int] | None = None, deadline: float = 5.0
    ) -> list[str]:
        """The addresses to connect to for a host that a tenant named, in the resolver's order; every one has been checked.

        `ports` are those the purpose may use (None: any). Connect to these addresses, not to the name; the TLS server name stays
        the name. Ask again for each connection. Raises Blocked, or Unavailable after `deadline` seconds without an answer.
        """
        if not 0 < port < 65536 or (ports is not None and port not in ports):
            raise Blocked(f"Port {port} is not open to {self.purpose}.")
        return [str(address) for address in await self.addresses(self._read_host(host), deadline=deadline)]

    async def addresses(self, host: Address | str, *, deadline: float = 5.0) -> list[Address]:
        """As check_host, of a host that has been read. Lookups of the same name at the same time are one."""
        if not isinstance(host, str):
            return [self._check(host, str(host))]
        if _is_localhost(host):
            opened = [address for address in _LOOPBACK if refusal(address, self._allow) is None]
            return opened or [self._check(_LOOPBACK[0], host)]
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = self._lookups[host] = asyncio.get_running_loop().create_task(self._lookup(host))
            lookup.add_done_callback(lambda done: self._looked_up(host, done))
        try:
            async with asyncio.timeout(deadline):
                found = await asyncio.shield(lookup)
        except TimeoutError:
            raise Unavailable(f"Looking up {host} took longer than {deadline:g} s.") from None
        # each address must be open, not only one of them: which one is connected to would be up to whoever answers
        return [self._check(address, None) for address in found]

    async def _lookup(self, host: str) -> list[Address]:
        found = [parse_address(text) for text in await self._resolve(host)]
        if not found:
            raise Unavailable(f"{host} has no address.")
        return list(dict.fromkeys(found))

    def _looked_up(self, host: str, done: asyncio.Task[list[Address]]) -> None:
        self._lookups.pop(host, None)
        if not done.cancelled():
            done.exception()  # read here: whoever asked may have given up

    def _read_host(self, text: str) -> Address | str:
        try:
            host = parse_host(text)
        except Invalid as error:
            raise Blocked(error.public) from error
        if host in _METADATA_NAMES:
            raise Blocked(f"{host} is closed: it serves a cloud's metadata.")
        if not isinstance(host, str):
            self._check(host, str(host))
        elif _is_localhost(host) and all(refusal(address, self._allow) for address in _LOOPBACK):
            self._check(_LOOPBACK[0], host)
        return host

    def _check(self, address: Address, spelled: str | None) -> Address:
        """`spelled`: the host as it was named, where it tells the caller no more than the caller said."""
        reason = refusal(address, self._allow)
        if reason is None:
            return address
        setting = f"POSTROOM_NETWORK__ALLOW__{self.purpose.upper()}"
        if spelled is None:
            raise Blocked(
                f"The host resolves to an address that is closed to {self.purpose}: {reason}. "
                f"The operator can open the network by {setting}."
            )
        network = f"{address}/{address.max_prefixlen}"
        raise Blocked(
            f"{spelled} is closed to {self.purpose}: {reason}. Use a public address, or let the operator open it: "
            f"{setting}={network}"
        )


class SystemResolver:
    """The system's own resolver (hosts file, name services), each question in a thread of a pool of our own.

    A question that hangs keeps one of LOOKUP_THREADS threads; the guard makes one question of all that ask for the same name.
    """

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, host: str) -> list[str]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            )
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
                return []
            raise Unavailable(f"Looking up {host} failed: {error.strerror}.") from error
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"Looking up {host} failed.") from error
        return [str(sockaddr[0]) for *_, sockaddr in found]

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    headers: Mapping[str, str]
    content: bytes
    max_body: int


_Key: TypeAlias = tuple[str, str, str, int]  # scheme, host as named, address, port


class GuardedClient:
    """HTTP/1.1 to what tenants name. Connections are kept for a moment, each for its own name and checked address only."""

    def __init__(self, guard: Guard, *, tls: ssl.SSLContext | None = None, connect_seconds: float = 5.0) -> None:
        self.guard = guard
        self._tls = tls or http_context()
        self._connect_seconds = connect_seconds
        self._idle: OrderedDict[httpcore.AsyncHTTPConnection, tuple[_Key, float]] = OrderedDict()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        deadline: float = 15.0,
        max_body: int = 65_536,
        redirects: int = 0,
    ) -> Answer:
        """One exchange within `deadline` seconds, lookup and redirects included; at most `max_body` octets of the body are read.

        `redirects`: how many are followed, of GET and HEAD only; 0 hands the 3xx back. Raises Blocked; Unavailable when there was
        no answer, in which case it may nevertheless have been heard.
        """
        try:
            async with asyncio.timeout(deadline):
                target = self.guard.check_url(url)
                answer = await self._exchange(target, _Call(method, headers or {}, content, max_body))
                for _ in range(redirects if method in ("GET", "HEAD") else 0):
                    if answer.status not in _REDIRECTS or "location" not in answer.headers:
                        break
                    before, target = target, self.guard.check_url(urljoin(target.url, answer.headers["location"]))
                    if (before.scheme, before.host, before.port) != (target.scheme, target.host, target.port):
                        headers = None  # what was meant for one host is not told to another
                    answer = await self._exchange(target, _Call(method, headers or {}, b"", max_body))
                return answer
        except TimeoutError:
            raise Unavailable(f"No whole answer within {deadline:g} s.") from None

    async def close(self) -> None:
        while self._idle:
            connection, _ = self._idle.popitem()
            await connection.aclose()

    async def _exchange(self, target: Target, call: _Call) -> Answer:
        addresses = await self.guard.addresses(target.host, deadline=self._connect_seconds)
        for position, address in enumerate(addresses):
            try:
                return await self._exchange_with(str(address), target, call)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                # nothing has been sent: the next address may be asked
                if position + 1 == len(addresses):
                    raise Unavailable(f"No connection to {target.host_header}: {_words(error)}.") from error
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                raise Unavailable(f"{target.host_header} did not answer properly: {_words(error)}.") from error
        raise Unavailable(f"{target.host_header} has no address.")

    async def _exchange_with(self, ip: str, target: Target, call: _Call) -> Answer:
        key = (target.scheme, str(target.host), ip, target.port)
        connection = await self._connection(key)
        fields = {"Host": target.host_header, **call.headers}
        if call.content or call.method not in ("GET", "HEAD"):
            fields["Content-Length"] = str(len(call.content))
        request = httpcore.Request(
            call.method,
            httpcore.URL(scheme=target.scheme, host=ip, port=target.port, target=target.path.encode("ascii")),
            headers=[(name.encode("ascii"), value.encode("ascii")) for name, value in fields.items()],
            content=call.content,
            extensions={"sni_hostname": str(target.host), "timeout": {"connect": self._connect_seconds}},
        )
        try:
            response = await connection.handle_async_request(request)
            body = bytearray()
            truncated = False
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > call.max_body:
                    truncated = True
                    break
            if not truncated:
                await response.aclose()
        except BaseException:
            await _abandon(connection)
            raise
        if not truncated and connection.is_idle():
            await self._keep(connection, key)
        else:
            await _abandon(connection)
        return Answer(
            response.status,
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers},
            bytes(body[: call.max_body]),
            truncated,
            ip,
        )

    async def _connection(self, key: _Key) -> httpcore.AsyncHTTPConnection:
        for connection, (other, _) in reversed(self._idle.items()):
            if other == key:
                del self._idle[connection]
                if not connection.has_expired() and connection.is_idle():
                    return connection
                await connection.aclose()
                break
        scheme, _, ip, port = key
        return httpcore.AsyncHTTPConnection(
            httpcore.Origin(scheme.encode(), ip.encode(), port),
            ssl_context=self._tls,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )

    async def _keep(self, connection: httpcore.AsyncHTTPConnection, key: _Key) -> None:
        now = asyncio.get_running_loop().time()
        self._idle[connection] = (key, now)
        while len(self._idle) > MAX_IDLE or now - next(iter(self._idle.values()))[1] > KEEPALIVE_SECONDS:
            stale, _ = self._idle.popitem(last=False)
            await stale.aclose()


def tls_context() -> ssl.SSLContext:
    """Verifies certificate and name against the system's authorities (SSL_CERT_FILE too) and Mozilla's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@functools.cache
def http_context() -> ssl.SSLContext:
    """That of all HTTP clients that trust nobody else; reading the authorities takes tens of milliseconds, hence once."""
    return tls_context()


async def _abandon(connection: httpcore.AsyncHTTPConnection) -> None:
    """Closes it now, also when the task is being cancelled; a TLS peer is not waited for."""
    try:
        async with asyncio.timeout(1):
            await connection.aclose()
    except Exception:  # noqa: S110 - nothing more is wanted of it
        pass


def _is_localhost(host: str) -> bool:
    """RFC 6761 §6.3: the loopback address, never a question for the DNS."""
    return host == "localhost" or host.endswith(".localhost")


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
