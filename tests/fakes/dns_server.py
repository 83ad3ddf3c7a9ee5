"""A name server on loopback, UDP and TCP, with the same table as mailcore.dns.resolver.StaticResolver."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.rrset

NEGATIVE_TTL = 60
_SOA = f"ns.test. hostmaster.test. 1 3600 600 86400 {NEGATIVE_TTL}"


class DnsServer:
    """`async with DnsServer(zones) as server:`; `server.address` is `127.0.0.1:port`.

    failing  names that answer SERVFAIL
    silent   names that get no answer
    gate     questions wait until it is set
    asked    every question over UDP, (name, type)
    """

    def __init__(
        self,
        zones: Mapping[str, Mapping[str, Sequence[str]]],
        *,
        failing: Collection[str] = (),
        silent: Collection[str] = (),
        ttl: int = 60,
    ) -> None:
        self.zones = zones
        self.failing = failing
        self.silent = silent
        self.ttl = ttl
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[tuple[str, str]] = []
        self.asked_by_tcp: list[tuple[str, str]] = []
        self.address = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while True:
            self._tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
            port = self._tcp.sockets[0].getsockname()[1]
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), ("127.0.0.1", port))
            except OSError:  # the number is taken for UDP
                self._tcp.close()
                continue
            self.address = f"127.0.0.1:{port}"
            return self

    async def __aexit__(self, *exception: object) -> None:
        self._udp.close()
        self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def answer_later(self, wire: bytes, transport: asyncio.DatagramTransport, peer: tuple[str, int]) -> None:
        task = asyncio.create_task(self._answer_datagram(wire, transport, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_datagram(self, wire: bytes, transport: asyncio.DatagramTransport, peer: tuple[str, int]) -> None:
        query = dns.message.from_wire(wire)
        self.asked.append(_question(query))
        await self.gate.wait()
        if _question(query)[0] in self.silent:
            return
        response = self._response(query).to_wire(max_size=65_535)
        if len(response) > max(query.payload, 512):
            truncated = dns.message.make_response(query)
            truncated.flags |= dns.flags.TC
            response = truncated.to_wire()
        transport.sendto(response, peer)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            query = dns.message.from_wire(await reader.readexactly(length))
            self.asked_by_tcp.append(_question(query))
            response = self._response(query).to_wire(max_size=65_535)
            writer.write(struct.pack("!H", len(response)) + response)
            await writer.drain()
        finally:
            writer.close()

    def _response(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query, recursion_available=True)
        name, rdtype = _question(query)
        for _ in range(9):
            if name in self.failing:
                response.set_rcode(dns.rcode.SERVFAIL)
                return response
            records = self.zones.get(name)
            if records is None and not any(other.endswith(f".{name}") for other in self.zones):
                response.set_rcode(dns.rcode.NXDOMAIN)
            elif records is not None and "CNAME" in records and rdtype != "CNAME":
                response.answer.append(self._rrset(name, "CNAME", records["CNAME"]))
                name = records["CNAME"][0].lower().removesuffix(".")
                continue
            elif records is not None and records.get(rdtype):
                response.answer.append(self._rrset(name, rdtype, records[rdtype]))
                return response
            response.authority.append(dns.rrset.from_text(f"{name}.", NEGATIVE_TTL, "IN", "SOA", _SOA))
            return response
        return response

    def _rrset(self, name: str, rdtype: str, values: Sequence[str]) -> dns.rrset.RRset:
        return dns.rrset.from_rdata_list(f"{name}.", self.ttl, [_record(rdtype, value) for value in values])


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, wire: bytes, peer: Any) -> None:
        self._server.answer_later(wire, self._transport, peer)


def _question(query: dns.message.Message) -> tuple[str, str]:
    question = query.question[0]
    return question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)


def _record(rdtype: str, value: str) -> dns.rdata.Rdata:
    if rdtype == "TXT":
        raw = value.encode()
        strings = [raw[i : i + 255] for i in range(0, len(raw), 255)]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings)
    return dns.rdata.from_text("IN", rdtype, value)
