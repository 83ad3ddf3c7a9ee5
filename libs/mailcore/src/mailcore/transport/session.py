"""One connection, opened until it can take mail: connect, greeting, EHLO, STARTTLS, EHLO again, AUTH. Or TLS before the greeting.

RFC 5321 §3.1, §3.2, §4.1.1.1; RFC 3207 (STARTTLS); RFC 8314 §3.3 (implicit TLS); RFC 4954 (AUTH); RFC 8689 (REQUIRETLS);
RFC 9422 (LIMITS).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from mailcore.kit import failpoint
from mailcore.smtp.outcome import Line, TlsSession
from mailcore.smtp.reply import Reply
from mailcore.transport.base import Credentials, Destination, Mail, Timeouts, TlsPolicy
from mailcore.transport.tls import (
    OPPORTUNISTIC,
    Demand,
    FailureType,
    Insecure,
    Security,
    asked_by,
    check_dane,
    encrypting_context,
    failure_of,
    is_passing,
    opportunistic_context,
    policy_name,
    rule_of,
    verifying_context,
    words_of,
)
from mailcore.transport.wire import Broken, Heard, Wire

MAX_GREETING = 120
"""Characters of it that go with later mails."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a hop."""

    host: str
    ip: str
    port: int
    security: Security = OPPORTUNISTIC
    """A connection made under one is not used under another."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the peer offered in its last EHLO reply; all False after HELO."""

    pipelining: bool = False
    starttls: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    size: bool = False
    max_size: int | None = None
    """Octets of a mail. None: not said, or without limit (RFC 1870 §3)."""
    chunking: bool = False
    dsn: bool = False
    requiretls: bool = False
    max_mails: int | None = None
    """Mails on one connection (RFC 9422 §4.1, MAILMAX)."""
    auth: frozenset[str] = frozenset()

    @classmethod
    def of(cls, lines: list[str]) -> Capabilities:
        """From the lines of an EHLO reply; the first is the peer's name (RFC 5321 §4.1.1.1)."""
        words = [line.upper().split() for line in lines[1:]]
        keywords = {line[0]: line[1:] for line in words if line}
        limits = dict(limit.partition("=")[::2] for limit in keywords.get("LIMITS", ()))
        # `AUTH=LOGIN PLAIN` is how some old servers write it
        auth = {m for line in words if line and line[0].startswith("AUTH") for m in (line[0][5:], *line[1:]) if m}
        return cls(
            pipelining="PIPELINING" in keywords,
            starttls="STARTTLS" in keywords,
            eight_bit="8BITMIME" in keywords,
            smtputf8="SMTPUTF8" in keywords,
            size="SIZE" in keywords,
            max_size=_number(*keywords.get("SIZE", ())[:1]),
            chunking="CHUNKING" in keywords,
            dsn="DSN" in keywords,
            requiretls="REQUIRETLS" in keywords,
            max_mails=_number(limits.get("MAILMAX", "")),
            auth=frozenset(auth),
        )


def _number(text: str = "") -> int | None:
    return int(text) or None if text.isdecimal() and text.isascii() and len(text) <= 20 else None


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
        self.tls_policy: str | None = None
        """What ruled it."""
        self.sessions: tuple[TlsSession, ...] = ()
        """What TLS came to on it, and on those that were tried before it."""
        self.verified = False
        """The peer's certificate passed the check that the policy asks for."""
        self.opened_at = 0.0
        """By the loop's clock."""
        self.most = 0
        """Mails that it takes."""
        self.old_at = 0.0
        """From then on it takes no other mail; by the loop's clock."""
        self.lines: list[Line] = []
        """The opening of the conversation; goes with the first mail …"""
        self.opened = ""
        """… and with each later one a word about it: when, and how the peer greeted."""
        self.mails = 0
        """Mails begun on this connection."""
        self.useful = False
        """The peer has decided about at least one mail."""
        self.retiring = False
        """Takes no further mail."""
        self.no_chunking = False
        """The peer offered CHUNKING and does not know BDAT."""
        self.tls_demanded = False
        """The peer offered STARTTLS, and takes no mail without …"""
        self.tls_off = False
        """… and the destination's policy is that it gets none."""
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

    async def open(self, destination: Destination, helo: str, *, demand: Demand) -> None:
        """Raises Broken, Insecure for want of TLS; `lines` then holds what was said. `demand`: see `tls.demand`, or less."""
        try:
            self.opened_at = asyncio.get_running_loop().time()
            self.tls_policy = policy_name(self.target.security, demand)
            self.tls_off = destination.tls is TlsPolicy.NONE
            implicit = destination.tls is TlsPolicy.IMPLICIT
            source_ip = destination.source_ips.get(ipaddress.ip_address(self.target.ip).version)
            await self._connect(source_ip, (destination.tls_context or verifying_context()) if implicit else None)
            await self._greeting()
            hello = f"{'LHLO' if destination.lmtp else 'EHLO'} {helo}"
            await self._ehlo(hello)
            if demand is not Demand.NONE and not implicit and await self._starttls(destination, demand):
                await self._ehlo(hello)
            if self.capabilities.requiretls and not self.verified:
                self.capabilities = replace(
                    self.capabilities, requiretls=False
                )  # RFC 8689 §4.2.1: of use when both hold
            if destination.requiretls and not self.capabilities.requiretls:
                # the next host may; this one does not get the mail
                raise Broken("requiretls-not-offered", "", Reply(550, "REQUIRETLS support required", "5.7.30"))
            if destination.credentials:
                await self._auth(destination.credentials)
            if not self.wire.quiet:
                raise self.wire.broken or Broken("garbage-reply", "the peer said more than it was asked")
            failpoint.hit("f6")
        except BaseException:
            if hasattr(self, "wire"):
                self.abort()
            raise

    async def _connect(self, source_ip: str | None, implicit: ssl.SSLContext | None) -> None:
        """`implicit`: TLS comes first, verified by this; no octet of the greeting is read before."""
        loop = asyncio.get_running_loop()
        local = (source_ip, 0) if source_ip else None
        self.wire = Wire(loop)
        self.wire.expect(1)  # the greeting
        tls: dict[str, Any] = {}
        if implicit is not None:
            tls = {"ssl": implicit, "server_hostname": self.target.host, "ssl_handshake_timeout": self.timeouts.tls}
        try:
            async with asyncio.timeout(self.timeouts.connect + (self.timeouts.tls if tls else 0)):
                await loop.create_connection(
                    lambda: self.wire, self.target.ip, self.target.port, local_addr=local, **tls
                )
        except TimeoutError:
            raise Broken("connect-failed", f"no connection to {self.target.ip} within the time limit") from None
        except ssl.SSLError as error:
            text = f"the TLS handshake failed: {words_of(error)}"
            raise self._insecure(Demand.PUBLIC, "tls-failed", text, failure_of(error)) from None
        except OSError as error:
            raise Broken("connect-failed", f"no connection to {self.target.ip}: {error.strerror or error}") from None
        assert self.wire.transport
        name = self.wire.transport.get_extra_info("sockname")
        self.source_ip = name[0] if name else source_ip
        self.tls, self.verified = self.wire.tls, implicit is not None

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
        at = datetime.fromtimestamp(heard.at, UTC).isoformat(timespec="seconds")
        self.opened = f"opened at {at}: {heard.code} {heard.texts[0][:MAX_GREETING]}"
        if heard.code != 220:  # RFC 5321 §3.1: 554, 4yz or 521 (RFC 7504): this host takes no mail now
            raise Broken("greeting-refused", "the greeting was a refusal", heard.reply())

    async def _ehlo(self, hello: str) -> None:
        heard = await self._ask(hello, self.timeouts.ehlo)
        if heard.code == 250:
            self.capabilities = Capabilities.of(heard.texts)
            return
        self.capabilities = Capabilities()
        if heard.code in (500, 502) and hello.startswith("EHLO"):
            # RFC 5321 §3.2: an old server, asked again in the old way
            heard = await self._ask(hello.replace("EHLO", "HELO", 1), self.timeouts.ehlo)
            if heard.code == 250:
                return
        raise Broken("ehlo-refused", f"{hello[:4]} was refused", heard.reply())

    async def _starttls(self, destination: Destination, demand: Demand) -> bool:
        if not self.capabilities.starttls:
            if demand > Demand.MAY:
                raise self._insecure(demand, "tls-not-offered", "the peer offers no STARTTLS", FailureType.STARTTLS)
            return False
        heard = await self._ask("STARTTLS", self.timeouts.ehlo)
        if heard.code != 220:
            if demand > Demand.MAY:
                raise self._insecure(demand, "tls-failed", "STARTTLS was refused", FailureType.STARTTLS, heard.reply())
            return False
        # RFC 3207 §6: what came in clear text behind the 220 must not be taken for words under TLS
        if not self.wire.quiet:
            raise Broken("starttls-injection", "the peer sent more than the reply to STARTTLS before the handshake")
        security = self.target.security
        context = opportunistic_context() if demand is Demand.MAY else encrypting_context()
        if demand is Demand.PUBLIC:
            context = destination.tls_context or verifying_context()
        # RFC 7672 §8.1: servers with several certificates go by the name that the TLSA records stand under
        name = security.names[0] if demand is Demand.DANE else self.target.host
        try:
            async with asyncio.timeout(self.timeouts.tls):
                await self.wire.start_tls(context, name)
        except (OSError, ssl.SSLError, TimeoutError, Broken) as error:
            text = f"the TLS handshake failed: {words_of(error)}"
            insecure = self._insecure(demand, "tls-failed", text, failure_of(error))
            insecure.passing = is_passing(error)
            raise insecure from None
        if not self.wire.quiet:
            raise Broken("starttls-injection", "the peer sent a reply unasked after the handshake")
        self.tls = self.wire.tls
        if demand is Demand.DANE:
            check_dane(security, self.wire.certificates(), datetime.now(UTC))
        self.verified = demand >= Demand.PUBLIC
        self.capabilities = Capabilities()  # RFC 3207 §4.2: what was offered in clear is forgotten
        return True

    def _insecure(
        self, demand: Demand, rule: str, text: str, failure: FailureType, reply: Reply | None = None
    ) -> Insecure:
        security = self.target.security
        if demand is not Demand.MAY:
            text = f"{text} ({asked_by(security)})"
        return Insecure(rule_of(security, rule), text, failure, reply)

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
