"""One connection, opened until it can take mail: connect, greeting, EHLO, STARTTLS, EHLO again, AUTH.

RFC 5321 §3.1, §3.2, §4.1.1.1; RFC 3207 (STARTTLS); RFC 4954 (AUTH).
"""

from __future__ import annotations

import asyncio
import base64
import functools
import ipaddress
import ssl
import time
from dataclasses import dataclass
from typing import Protocol

from mailcore.kit import failpoint
from mailcore.smtp.outcome import Line
from mailcore.transport.base import Credentials, Destination, Mail, Timeouts, TlsPolicy
from mailcore.transport.wire import Broken, Heard, Wire


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a hop."""

    host: str
    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the peer offered in its last EHLO reply; all False after HELO."""

    pipelining: bool = False
    starttls: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    size: bool = False
    auth: frozenset[str] = frozenset()

    @classmethod
    def of(cls, lines: list[str]) -> Capabilities:
        """From the lines of an EHLO reply; the first is the peer's name (RFC 5321 §4.1.1.1)."""
        words = [line.upper().split() for line in lines[1:]]
        keywords = {line[0] for line in words if line}
        # `AUTH=LOGIN PLAIN` is how some old servers write it
        auth = {m for line in words if line and line[0].startswith("AUTH") for m in (line[0][5:], *line[1:]) if m}
        return cls(
            pipelining="PIPELINING" in keywords,
            starttls="STARTTLS" in keywords,
            eight_bit="8BITMIME" in keywords,
            smtputf8="SMTPUTF8" in keywords,
            size="SIZE" in keywords,
            auth=frozenset(auth),
        )


class Source(Protocol):
    """Where a session gets its next mail."""

    def pull(self, session: Session) -> Mail | None:
        """The next mail for this session, at once, or None."""
        ...

    def put_back(self, mail: Mail) -> None:
        """A mail that was pulled and whose final dot was not sent."""
        ...


class Session:
    """A connection that can take mail, and what was said on it. `open` makes one."""

    def __init__(self, target: Target, timeouts: Timeouts) -> None:
        self.target = target
        self.timeouts = timeouts
        self.capabilities = Capabilities()
        self.source_ip: str | None = None
        self.tls: str | None = None
        self.lines: list[Line] = []
        """The opening of the conversation; goes with the first mail."""
        self.mails = 0
        """Mails begun on this connection."""
        self.useful = False
        """The peer has decided about at least one mail."""
        self.retiring = False
        """Takes no further mail."""
        self.wire: Wire

    @property
    def usable(self) -> bool:
        return self.wire.quiet and not self.retiring

    def quit(self) -> asyncio.Future[None]:
        """Say QUIT and let go; the connection is cut when the peer does not close it. Done when it is gone."""
        wire = self.wire
        if wire.quiet:
            wire.write(b"QUIT\r\n", 1)
            handle = asyncio.get_running_loop().call_later(self.timeouts.quit, self.abort)
            wire.closed.add_done_callback(lambda _: handle.cancel())
        else:
            self.abort()
        return wire.closed

    def abort(self) -> None:
        self.wire.sever("closed", "we closed the connection")

    # ---- opening

    async def open(self, destination: Destination, helo: str, *, tls: TlsPolicy) -> None:
        """Raises Broken; `lines` then holds what was said until then. `tls` may be weaker than the destination's policy."""
        try:
            await self._connect(destination.source_ip)
            await self._greeting()
            await self._ehlo(helo)
            if tls is not TlsPolicy.NONE and await self._starttls(destination, tls):
                await self._ehlo(helo)
            if destination.credentials:
                await self._auth(destination.credentials)
            if not self.wire.quiet:
                raise self.wire.broken or Broken("garbage-reply", "the peer said more than it was asked")
            failpoint.hit("f6")
        except BaseException:
            if hasattr(self, "wire"):
                self.abort()
            raise

    async def _connect(self, source_ip: str | None) -> None:
        loop = asyncio.get_running_loop()
        local = (source_ip, 0) if source_ip else None
        self.wire = Wire(loop)
        self.wire.expect(1)  # the greeting
        try:
            async with asyncio.timeout(self.timeouts.connect):
                await loop.create_connection(lambda: self.wire, self.target.ip, self.target.port, local_addr=local)
        except TimeoutError:
            raise Broken("connect-failed", f"no connection to {self.target.ip} within the time limit") from None
        except OSError as error:
            raise Broken("connect-failed", f"no connection to {self.target.ip}: {error.strerror or error}") from None
        assert self.wire.transport
        name = self.wire.transport.get_extra_info("sockname")
        self.source_ip = name[0] if name else source_ip

    async def _ask(self, said: str, seconds: float, *, record: str | None = None) -> Heard:
        self.lines.append(Line(time.time(), said=record or said))
        self.wire.write(said.encode("utf-8") + b"\r\n", 1)
        return await self._hear(seconds)

    async def _hear(self, seconds: float) -> Heard:
        await self.wire.wait((seconds,))
        heard = self.wire.next()
        self.lines += heard.lines()
        return heard

    async def _greeting(self) -> None:
        heard = await self._hear(self.timeouts.greeting)
        if heard.code != 220:  # RFC 5321 §3.1: 554, 4yz or 521 (RFC 7504): this host takes no mail now
            raise Broken("greeting-refused", "the greeting was a refusal", heard.reply())

    async def _ehlo(self, helo: str) -> None:
        heard = await self._ask(f"EHLO {helo}", self.timeouts.ehlo)
        if heard.code == 250:
            self.capabilities = Capabilities.of(heard.texts)
            return
        self.capabilities = Capabilities()
        if heard.code in (500, 502):  # RFC 5321 §3.2: an old server, asked again in the old way
            heard = await self._ask(f"HELO {helo}", self.timeouts.ehlo)
            if heard.code == 250:
                return
        raise Broken("ehlo-refused", "EHLO was refused", heard.reply())

    async def _starttls(self, destination: Destination, tls: TlsPolicy) -> bool:
        required = tls is TlsPolicy.REQUIRED
        if not self.capabilities.starttls:
            if required:
                raise Broken("tls-not-offered", "the peer offers no STARTTLS and TLS is required")
            return False
        heard = await self._ask("STARTTLS", self.timeouts.ehlo)
        if heard.code != 220:
            if required:
                raise Broken("tls-failed", "STARTTLS was refused and TLS is required", heard.reply())
            return False
        # RFC 3207 §6: what came in clear text behind the 220 must not be taken for words under TLS
        if not self.wire.quiet:
            raise Broken("starttls-injection", "the peer sent more than the reply to STARTTLS before the handshake")
        context = (destination.tls_context or verifying_context()) if required else opportunistic_context()
        try:
            async with asyncio.timeout(self.timeouts.tls):
                await self.wire.start_tls(context, self.target.host)
        except (OSError, ssl.SSLError, TimeoutError, Broken) as error:
            reason = (
                getattr(error, "verify_message", "")
                or getattr(error, "reason", "")
                or str(error)
                or type(error).__name__
            )
            raise Broken("tls-failed", f"the TLS handshake failed: {reason}") from None
        if not self.wire.quiet:
            raise Broken("starttls-injection", "the peer sent a reply unasked after the handshake")
        self.tls = self.wire.tls
        self.capabilities = Capabilities()  # RFC 3207 §4.2: what was offered in clear is forgotten
        return True

    async def _auth(self, credentials: Credentials) -> None:
        if self.tls is None and not ipaddress.ip_address(self.target.ip).is_loopback:
            raise Broken("auth-without-tls", "the password is not sent without TLS")
        offered = self.capabilities.auth
        user, password = credentials.username.encode(), credentials.password.encode()
        if "PLAIN" in offered:  # RFC 4616 §2
            token = base64.b64encode(b"\0" + user + b"\0" + password).decode()
            heard = await self._ask(f"AUTH PLAIN {token}", self.timeouts.ehlo, record="AUTH PLAIN ***")
        elif "LOGIN" in offered:
            heard = await self._ask("AUTH LOGIN", self.timeouts.ehlo)
            for secret in (user, password):
                if heard.code != 334:
                    break
                heard = await self._ask(base64.b64encode(secret).decode(), self.timeouts.ehlo, record="***")
        else:
            raise Broken("auth-not-offered", "the peer offers neither AUTH PLAIN nor AUTH LOGIN")
        if heard.code != 235:
            # a wrong password is mended by the operator while the mail waits
            raise Broken("auth-refused", "the login was refused", heard.reply())


@functools.cache
def verifying_context() -> ssl.SSLContext:
    """Against the system's roots; reading them takes tens of milliseconds, hence once."""
    return ssl.create_default_context()


@functools.cache
def opportunistic_context() -> ssl.SSLContext:
    """TLS against those who only listen: nothing is verified (RFC 7435 §4)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
