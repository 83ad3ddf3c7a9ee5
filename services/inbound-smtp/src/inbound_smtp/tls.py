"""TLS inside a session, and the certificate that it is made with.

The session owns its octets: what came in clear before the handshake, a PROXY header or a STARTTLS command, is gone when the first
octet of TLS is read, and what came after it belongs to TLS, however packets were cut. So there is no transport to exchange and
nothing said in clear can be read as said within TLS (RFC 3207 §4.2, CVE-2011-0411). RFC 8446, RFC 8314 §3.3.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

from mailcore.kit.errors import Refused
from mailcore.kit.log import logger

log = logger(__name__)

LOOK_SECONDS = 10.0
"""How often the files of the certificate are looked at."""
_READ = 65_536


class Channel:
    """The server's side of one TLS connection: octets of the wire in, octets said out, and the other way round."""

    def __init__(self, context: ssl.SSLContext, send: Callable[[bytes], None]) -> None:
        """`send` puts octets on the wire."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._send = send
        self.established = False
        self.ended = False
        """The client has said that it will say no more (RFC 8446 §6.1)."""

    @property
    def described(self) -> str:
        """Version and cipher."""
        cipher = self._tls.cipher()
        return f"{self._tls.version()} {cipher[0] if cipher else ''}".rstrip()

    def receive(self, octets: bytes) -> bytes:
        """What the client said in it. Raises ssl.SSLError: an alert of ours has been sent where TLS has one."""
        self._in.write(octets)
        said = b""
        try:
            if not self.established:
                self._tls.do_handshake()
                self.established = True
            while piece := self._tls.read(_READ):
                said = said + piece if said else piece
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        finally:
            self._flush()
        return said

    def say(self, octets: bytes) -> None:
        self._tls.write(octets)
        self._flush()

    def close(self) -> None:
        """Says that nothing more will be said. Raises nothing."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError, OSError):
            pass  # the client has not said it yet, and need not
        self._flush()

    def _flush(self) -> None:
        if self._out.pending:
            self._send(self._out.read())


class Certificate:
    """PEM files that may be exchanged while we run: `context` is what they held when they were last whole."""

    def __init__(self, cert: str, key: str) -> None:
        """Raises Refused when they cannot be used."""
        self._cert, self._key = cert, key
        self._seen = self._stamp()
        try:
            self.context = self._load()
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"POSTROOM_SMTP__TLS_CERT and __TLS_KEY cannot be used: {error}") from error

    async def keep(self) -> None:
        """Looks again and again, for the life of the process."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """New files count for connections that begin from here on. Files that do not fit each other, as when only one of them has
        been exchanged yet, change nothing."""
        seen = self._stamp()
        if seen == self._seen:
            return
        try:
            self.context = self._load()
        except (OSError, ssl.SSLError) as error:
            log.error("the new certificate cannot be used; the old one stays", cert=self._cert, error=str(error))
            return
        self._seen = seen
        log.info("a new certificate is in use", cert=self._cert)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(self._cert, self._key)
        return context

    def _stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """By which a change is seen. A symbolic link that points elsewhere is one, too (Kubernetes exchanges secrets so)."""
        return tuple(_stamp(Path(name)) for name in (self._cert, self._key))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
