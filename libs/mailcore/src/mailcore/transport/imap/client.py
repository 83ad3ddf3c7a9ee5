"""One IMAP connection. Every wait has a deadline; every failure is Unavailable (try later) or Refused (the person must act)."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NoReturn

from mailcore.kit.errors import MailError, Refused, Unavailable
from mailcore.transport.imap.response import Garbled, Text, Token, tokens

MAX_LINE = 16 * 1024 * 1024
"""Octets of a line: the answer to a UID SEARCH of about two million mails."""
MAX_LITERAL = 1024 * 1024
"""Octets of a literal: header blocks are cut off by the server at less (HEADER_OCTETS)."""
MAX_UNTAGGED = 50_000
"""Responses that may come before a command's own."""
HEADER_OCTETS = 256 * 1024
_LITERAL = re.compile(rb"\{(\d{1,10})\+?\}$")
_HEADERS = b"BODY.PEEK[HEADER]<0.%d>" % HEADER_OCTETS


class Security(StrEnum):
    TLS = "tls"
    STARTTLS = "starttls"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Selected:
    uidvalidity: int
    exists: int


@dataclass(frozen=True, slots=True)
class FetchedMail:
    uid: int
    size: int
    flags: tuple[str, ...]
    internal_date: datetime | None
    header: bytes


class SignInFailed(Refused):
    """The server refused the name or the password."""


class ImapClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, timeout: float) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host
        self._timeout = timeout
        self._number = 0
        self.capabilities: frozenset[str] = frozenset()

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        addresses: Sequence[str],
        security: Security,
        tls: ssl.SSLContext,
        timeout: float = 30.0,
    ) -> AsyncIterator[ImapClient]:
        """`addresses` are those of `host`, already checked; the certificate is checked against `host`."""
        reader, writer = await _open(host, port, addresses, security, tls, timeout)
        client = cls(reader, writer, host, timeout)
        try:
            await client._greeting(security, tls)
            yield client
        finally:
            writer.close()
            try:
                async with asyncio.timeout(2):
                    await writer.wait_closed()
            except (OSError, TimeoutError, ssl.SSLError):
                pass

    async def login(self, username: str, password: str) -> None:
        """AUTHENTICATE PLAIN (RFC 4616) where offered, else LOGIN. Raises SignInFailed with the server's words."""
        if "\0" in username + password or "\r" in username + password or "\n" in username + password:
            raise SignInFailed("The user name or the password holds a control character.")
        if "AUTH=PLAIN" in self.capabilities:
            secret = base64.b64encode(f"\0{username}\0{password}".encode())
            # without SASL-IR (RFC 4959) the response waits for the server's `+`
            first = b" " + secret if "SASL-IR" in self.capabilities else b""
            answer = await self._command(b"AUTHENTICATE PLAIN" + first, continuation=secret)
        elif "LOGINDISABLED" in self.capabilities:
            raise SignInFailed(f"{self._host} takes no password on this connection. Use security tls or starttls.")
        else:
            answer = await self._command(b"LOGIN " + _quote(username) + b" " + _quote(password))
        if answer.status != "OK":
            raise SignInFailed(f"{self._host} refused the user name or password: {answer.text}")
        await self._ask_capabilities()

    async def examine(self, folder: str) -> Selected:
        """Opens a folder for reading only (RFC 3501 §6.3.2)."""
        answer = await self._command(b"EXAMINE " + _quote(folder))
        if answer.status != "OK":
            raise Unavailable(f"{self._host} does not open {folder}: {answer.text}")
        uidvalidity, exists = 0, 0
        for line in answer.untagged:
            if len(line) > 1 and _upper(line[1]) == b"EXISTS":
                exists = _number(line[0])
            elif len(line) > 1 and isinstance(line[1], bytes) and line[1].upper().startswith(b"[UIDVALIDITY "):
                uidvalidity = _number(line[1][len(b"[UIDVALIDITY ") : -1])
        if not uidvalidity:
            raise Unavailable(f"{self._host} gives no UIDVALIDITY for {folder}.")
        return Selected(uidvalidity, exists)

    async def uids_from(self, first: int) -> list[int]:
        """The UIDs of the open folder from `first` on, in order."""
        answer = await self._command(b"UID SEARCH UID %d:*" % first)
        if answer.status != "OK":
            raise Unavailable(f"{self._host} does not search: {answer.text}")
        found = {
            _number(token) for line in answer.untagged if line and _upper(line[0]) == b"SEARCH" for token in line[1:]
        }
        # RFC 3501 §6.4.8: `n:*` always names the last mail, even when its UID is below n
        return sorted(uid for uid in found if uid >= first)

    async def headers(self, uids: Sequence[int]) -> list[FetchedMail]:
        """Size, flags, arrival time and header block of these mails; those that are gone meanwhile are left out."""
        wanted = b",".join(b"%d" % uid for uid in uids)
        answer = await self._command(
            b"UID FETCH " + wanted + b" (UID FLAGS INTERNALDATE RFC822.SIZE " + _HEADERS + b")"
        )
        if answer.status != "OK":
            raise Unavailable(f"{self._host} does not fetch: {answer.text}")
        asked = set(uids)
        found: dict[int, FetchedMail] = {}
        for line in answer.untagged:
            if len(line) > 2 and _upper(line[1]) == b"FETCH" and isinstance(line[2], list):
                mail = _fetched(line[2])
                # a FETCH that only tells of changed flags (RFC 3501 §7.4.2) has no header
                if mail is not None and mail.uid in asked:
                    found[mail.uid] = mail
        return [found[uid] for uid in sorted(found)]

    async def logout(self) -> None:
        try:
            await self._command(b"LOGOUT")
        except MailError:
            pass  # the server may hang up first

    # ---- the exchange ------------------------------------------------------------------------------------------------

    async def _greeting(self, security: Security, tls: ssl.SSLContext) -> None:
        line = await self._response()
        if len(line) < 2 or line[0] != b"*" or _upper(line[1]) == b"BYE":
            raise Unavailable(f"{self._host} does not greet as an IMAP server.")
        if _upper(line[1]) == b"PREAUTH" and security is Security.STARTTLS:
            # signed in before TLS: whoever speaks here is not to be believed (STARTTLS stripping)
            raise Refused(
                f"{self._host} skips signing in before TLS; its STARTTLS cannot be trusted. Use security tls."
            )
        await self._ask_capabilities()
        if security is Security.STARTTLS:
            await self._starttls(tls)

    async def _starttls(self, tls: ssl.SSLContext) -> None:
        if "STARTTLS" not in self.capabilities:
            raise Refused(f"{self._host} offers no STARTTLS. Use security tls (port 993).")
        answer = await self._command(b"STARTTLS")
        if answer.status != "OK":
            raise Unavailable(f"{self._host} refuses STARTTLS: {answer.text}")
        # RFC 3501 §6.2.1: what came in clear after the OK was not said by who answers under TLS
        if self._reader._buffer:  # type: ignore[attr-defined]
            raise Unavailable(
                f"{self._host} sent something between STARTTLS and TLS; the connection is not to be trusted."
            )
        try:
            async with asyncio.timeout(self._timeout):
                await self._writer.start_tls(tls, server_hostname=self._host)
        except (OSError, TimeoutError) as error:
            raise _tls_trouble(self._host, error) from error
        await self._ask_capabilities()

    async def _ask_capabilities(self) -> None:
        answer = await self._command(b"CAPABILITY")
        for line in answer.untagged:
            if line and _upper(line[0]) == b"CAPABILITY":
                self.capabilities = frozenset(
                    token.decode("ascii", "replace").upper() for token in line[1:] if isinstance(token, bytes)
                )

    async def _command(self, text: bytes, *, continuation: bytes | None = None) -> _Answer:
        self._number += 1
        tag = b"p%d" % self._number
        untagged: list[list[Token]] = []
        try:
            self._writer.write(tag + b" " + text + b"\r\n")
            await self._writer.drain()
            while True:
                line = await self._response()
                if not line:
                    continue
                if line[0] == b"*":
                    if len(line) > 1 and _upper(line[1]) == b"BYE" and text != b"LOGOUT":
                        self._fail("it ended the connection")
                    untagged.append(line[1:])
                    if len(untagged) > MAX_UNTAGGED:
                        self._fail("it never comes to the point")
                elif line[0] == b"+":
                    self._writer.write((continuation or b"*") + b"\r\n")
                    continuation = None
                elif line[0] == tag:
                    words = [token for token in line[2:] if isinstance(token, bytes)]
                    status = _upper(line[1]) if len(line) > 1 else b"BAD"
                    return _Answer(
                        status.decode("ascii", "replace"), b" ".join(words).decode("utf-8", "replace")[:500], untagged
                    )
                else:
                    self._fail("it answers another question")
        except OSError as error:
            raise Unavailable(f"The connection to {self._host} broke: {error}.") from error

    async def _response(self) -> list[Token]:
        """One response, its literals read in."""
        parts: list[bytes | Text] = []
        total = 0
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    line = (await self._reader.readuntil(b"\r\n"))[:-2]
                    literal = _LITERAL.search(line)
                    if literal is None:
                        parts.append(line)
                        break
                    size = int(literal[1])
                    total += size
                    if total > MAX_LITERAL:
                        self._fail("it sends more than was asked for")
                    parts.append(line[: literal.start()])
                    parts.append(Text(await self._reader.readexactly(size)))
            if parts[0].startswith((b"* OK", b"* NO", b"* BAD", b"* PREAUTH", b"* BYE", b"+")) or _tagged(parts[0]):
                return _status_line(parts[0])
            return tokens(parts)
        except TimeoutError:
            self._fail("it does not answer in time")
        except asyncio.IncompleteReadError:
            self._fail("it hung up")
        except (asyncio.LimitOverrunError, Garbled) as error:
            self._fail(f"it sends no proper IMAP ({error})")

    def _fail(self, why: str) -> NoReturn:
        raise Unavailable(f"{self._host} cannot be read: {why}.")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    text: str
    untagged: list[list[Token]]


async def _open(
    host: str, port: int, addresses: Sequence[str], security: Security, tls: ssl.SSLContext, timeout: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    trouble: Exception = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(timeout):
                if security is Security.TLS:
                    return await asyncio.open_connection(address, port, ssl=tls, server_hostname=host, limit=MAX_LINE)
                return await asyncio.open_connection(address, port, limit=MAX_LINE)
        except (OSError, TimeoutError) as error:
            trouble = error
    if isinstance(trouble, ssl.SSLError):
        raise _tls_trouble(host, trouble) from trouble
    reason = (
        "no answer in time"
        if isinstance(trouble, TimeoutError)
        else (getattr(trouble, "strerror", None) or str(trouble))
    )
    raise Unavailable(f"No connection to {host} port {port}: {reason}. Check host and port.") from trouble


def _tls_trouble(host: str, error: Exception) -> MailError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"The certificate of {host} does not stand: {error.verify_message}.")
    return Unavailable(f"No TLS with {host}: {error or type(error).__name__}. Check port and security.")


def _tagged(line: bytes) -> bool:
    return line[:1] == b"p" and line[1:2].isdigit()


def _status_line(line: bytes) -> list[Token]:
    """Human words may hold quotes and brackets that balance nowhere: only the code in front of them is taken apart."""
    head = line.split(b" ", 2)
    words = head[2] if len(head) > 2 else b""
    if words.startswith(b"[") and b"]" in words:
        code, _, words = words.partition(b"]")
        return [*head[:2], code + b"]", words.strip()]
    return [*head[:2], words]


def _upper(token: Token) -> bytes:
    return token.upper() if isinstance(token, bytes) else b""


def _number(token: Token) -> int:
    if not isinstance(token, bytes) or not token.isdigit() or len(token) > 10:
        raise Unavailable("The IMAP server sends something else where a number belongs.")
    return int(token)


def _quote(text: str) -> bytes:
    if text.isascii():
        return b'"' + text.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    raise Refused("This server takes names and passwords in ASCII only.")


def _fetched(items: list[Token]) -> FetchedMail | None:
    values = {_upper(name).partition(b"<")[0]: value for name, value in zip(items[::2], items[1::2], strict=False)}
    header, flags, date = values.get(b"BODY[HEADER]"), values.get(b"FLAGS"), values.get(b"INTERNALDATE")
    if b"UID" not in values or not isinstance(header, bytes):
        return None
    return FetchedMail(
        uid=_number(values[b"UID"]),
        size=_number(values.get(b"RFC822.SIZE", b"0")),
        flags=tuple(flag.decode("ascii", "replace") for flag in flags if isinstance(flag, bytes))
        if isinstance(flags, list)
        else (),
        internal_date=_date(date) if isinstance(date, bytes) else None,
        header=header,
    )


def _date(text: bytes) -> datetime | None:
    try:
        return datetime.strptime(text.decode("ascii").strip(), "%d-%b-%Y %H:%M:%S %z").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
