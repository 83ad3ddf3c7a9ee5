"""HTTP to providers. What matters of a failure is whether the request can have been heard: then the mail may have been taken.

Only for hosts that a vendor's folder or the operator names; what a tenant may name goes through kit.guard.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import httpcore

from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import http_context
from mailcore.providers.base import Answer, Request

CONNECT_SECONDS = 10.0
SECONDS = 60.0
"""For the whole exchange: a provider that takes longer has lost it."""
KEEPALIVE_SECONDS = 4.0
"""Shorter than the 5 s after which common servers close: a request must not meet a connection that is being closed."""
MAX_ANSWER = 65_536
MAX_IDLE = 200
USER_AGENT = "Postroom/1"


class NotSent(Unavailable):
    """No connection: nobody can have heard it."""


class Unheard(Unavailable):
    """The request left, or part of it, and no answer came."""


@dataclass(frozen=True, slots=True)
class Exchange:
    answer: Answer
    ip: str | None
    source_ip: str | None
    tls: str | None
    """`TLSv1.3 TLS_AES_256_GCM_SHA384`, or None for clear text."""


class Client:
    """One a process. Connections are shared by all ways to one host."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or http_context(),
            max_connections=None,  # each way's site has its own limit: none waits for another's
            max_keepalive_connections=MAX_IDLE,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )

    async def send(self, request: Request) -> Exchange:
        """Redirects are not followed. Raises NotSent and Unheard."""
        limits = {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS, "read": self._seconds, "write": self._seconds}
        fields = {"User-Agent": USER_AGENT, "Accept": "application/json", **request.headers}
        try:
            async with (
                asyncio.timeout(self._seconds + 2 * CONNECT_SECONDS),
                self._pool.stream(
                    request.method,
                    request.url,
                    headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields.items()],
                    content=request.body,
                    extensions={"timeout": limits},
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_stream():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        break
                headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return _exchange(response, Answer(response.status, headers, bytes(body[:MAX_ANSWER])))
        except (httpcore.LocalProtocolError, UnicodeEncodeError):
            # its words would show the header, and that may be the account's secret
            raise NotSent("a setting of this account holds what no request may") from None
        except (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise NotSent(f"no connection: {_words(error)}") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, TimeoutError) as error:
            raise Unheard(f"no answer: {_words(error)}") from error

    async def fetch(self, url: str) -> bytes:
        """A small document. Raises Unavailable."""
        exchange = await self.send(Request("GET", url, {"Accept": "*/*"}, b""))
        if exchange.answer.status != 200:
            raise Unavailable(f"The provider answered {exchange.answer.status} where a document was expected.")
        return exchange.answer.body

    async def close(self) -> None:
        await self._pool.aclose()


def _exchange(response: httpcore.Response, answer: Answer) -> Exchange:
    stream = response.extensions.get("network_stream")
    if stream is None:
        return Exchange(answer, None, None, None)
    peer, here = stream.get_extra_info("server_addr"), stream.get_extra_info("client_addr")
    secure = stream.get_extra_info("ssl_object")
    cipher = secure.cipher() if secure is not None else None
    return Exchange(
        answer,
        str(peer[0]) if peer else None,
        str(here[0]) if here else None,
        f"{secure.version()} {cipher[0]}" if secure is not None and cipher else None,
    )


def _words(error: BaseException) -> str:
    return (str(error) or type(error).__name__).rstrip(".")[:200]
