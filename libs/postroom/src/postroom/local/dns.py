"""The lab's DNS: a small authoritative server over UDP and TCP (RFC 1035), zones from DIR/dns/<zone>.json.

    python -m postroom.local.dns --listen 127.0.0.1:8087 --dir DIR/dns

A zone is looked up in its file at every question and read again when that has changed, so a change counts at once.
1. `answer` turns wire bytes into wire bytes. 2. `Zones` finds the closest zone. 3. UDP answers that do not fit are truncated
and asked for again over TCP. It answers for its zones only, refuses the rest, follows a CNAME within its zones, knows no
delegation and no wildcard.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import struct
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from mailcore.dns.lab import MAX_RECORDS, Record, Zone, read_zone, zone_file, zone_origin
from mailcore.kit.errors import MailError
from mailcore.kit.log import configure, logger

log = logger(__name__)

UDP_PAYLOAD = 1232  # what gets through everywhere without fragments
UDP_CLASSIC = 512  # RFC 1035 §4.2.1
MAX_ALIASES = 8
TCP_IDLE_SECONDS = 30.0
MAX_TCP = 200
_UNSERVED_TYPES = ("AXFR", "IXFR", "MAILA", "MAILB")


class Zones:
    """The zones in a folder, each kept in memory until its file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[tuple[int, int, int], Zone | None]] = {}

    def closest(self, name: dns.name.Name) -> Zone | None:
        """The longest zone that holds the name. Raises MailError when its file cannot be used."""
        while name != dns.name.root:
            zone = self._zone(name)
            if zone is not None:
                return zone
            name = name.parent()
        return None

    def _zone(self, origin: dns.name.Name) -> Zone | None:
        try:
            path = zone_file(self._folder, zone_origin(origin.to_text()))
        except MailError:
            return None  # a name that no zone has, and no file name either
        try:
            status = path.stat()
        except OSError:
            self._known.pop(path, None)
            return None
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._known.get(path)
        if known is None or known[0] != version:
            zone: Zone | None
            try:
                zone = read_zone(path)
            except (MailError, OSError) as error:
                log.error("zone cannot be read", file=path.name, error=str(error))
                zone = None
            known = self._known[path] = (version, zone)
        if known[1] is None:
            raise MailError("The zone's file cannot be used.")
        return known[1]


def answer(zones: Zones, wire: bytes, *, tcp: bool) -> bytes | None:
    """The answer to a question; None when there is to be none."""
    try:
        query = dns.message.from_wire(wire, ignore_trailing=True)
    except dns.exception.DNSException:
        return _formerr(wire)
    if query.flags & dns.flags.QR:  # an answer is never answered
        return None
    response = dns.message.make_response(query, our_payload=UDP_PAYLOAD)
    if query.opcode() != dns.opcode.QUERY:
        response.set_rcode(dns.rcode.NOTIMP)
    elif query.edns > 0:
        response.set_rcode(dns.rcode.BADVERS)  # RFC 6891 §6.1.3
    elif len(query.question) != 1:
        response.set_rcode(dns.rcode.FORMERR)
    elif query.question[0].rdclass != dns.rdataclass.IN:
        response.set_rcode(dns.rcode.REFUSED)
    elif not _fill(zones, query.question[0], response):
        return None
    limit = 65535 if tcp else min(UDP_PAYLOAD, max(UDP_CLASSIC, query.payload)) if query.edns >= 0 else UDP_CLASSIC
    try:
        return response.to_wire(max_size=limit)
    except dns.exception.TooBig:
        for section in (response.answer, response.authority, response.additional):
            section.clear()
        if tcp:
            response.set_rcode(dns.rcode.SERVFAIL)
        else:
            response.flags |= dns.flags.TC  # RFC 2181 §9
        return response.to_wire(max_size=limit)


def _formerr(wire: bytes) -> bytes | None:
    """With the question's id, when that much could be read (RFC 1035 §4.1.1)."""
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    return wire[:2] + bytes([0x80 | (wire[2] & 0x79), dns.rcode.FORMERR]) + bytes(8)


def _fill(zones: Zones, question: dns.rrset.RRset, response: dns.message.Message) -> bool:
    """Puts in the answer; False when the name is one that does not answer."""
    name, type_ = _lower(question.name), dns.rdatatype.to_text(question.rdtype)
    try:
        zone = zones.closest(name)
        if zone is None or type_ in _UNSERVED_TYPES:
            response.set_rcode(dns.rcode.REFUSED)
            return True
        response.flags |= dns.flags.AA
        for step in range(MAX_ALIASES):
            found = zone.find(name, type_)
            if found.misbehaves == "TIMEOUT":
                return False
            if found.misbehaves == "SERVFAIL":
                response.set_rcode(dns.rcode.SERVFAIL)
                response.answer.clear()
                return True
            _add(response.answer, question.name if step == 0 else name, found.records)
            alias = next((record for record in found.records if record.type == "CNAME"), None)
            if alias is None or type_ in ("CNAME", "ANY"):
                break
            name = _lower(alias.rdata.target)  # type: ignore[union-attr]
            target = zones.closest(name)
            if target is None:  # whoever asks goes on elsewhere
                return True
            zone = target
        if not found.records:
            if not found.exists:
                response.set_rcode(dns.rcode.NXDOMAIN)  # RFC 6604 §3: of the last name in the chain
            _add(response.authority, zone.origin, [zone.soa])  # RFC 2308 §3
    except MailError:
        response.answer.clear()
        response.set_rcode(dns.rcode.SERVFAIL)
    return True


def _lower(name: dns.name.Name) -> dns.name.Name:
    return dns.name.Name(label.lower() for label in name.labels)


def _add(section: list[dns.rrset.RRset], name: dns.name.Name, records: tuple[Record, ...] | list[Record]) -> None:
    for kind in dict.fromkeys(record.type for record in records):
        rrset = dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.from_text(kind))
        for record in records:
            if record.type == kind and record.rdata is not None:
                rrset.add(record.rdata, record.ttl)
        section.append(rrset)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zones: Zones) -> None:
        self._zones = zones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        wire = answer(self._zones, data, tcp=False)
        if wire is not None:
            self._transport.sendto(wire, addr)


async def serve(host: str, port: int, folder: Path, stop: asyncio.Event) -> None:
    zones = Zones(folder)
    open_streams = 0

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_streams
        open_streams += 1
        try:
            while open_streams <= MAX_TCP:  # RFC 7766 §6.2.1: several questions on one connection
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = answer(zones, await reader.readexactly(length), tcp=True)
                    if wire is not None:
                        writer.write(struct.pack("!H", len(wire)) + wire)
                        await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone
        finally:
            open_streams -= 1
            writer.close()

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(zones), local_addr=(host, port))
    server = await asyncio.start_server(stream, host, port)
    log.info("dns listens", host=host, port=port, records_per_zone=MAX_RECORDS)
    await stop.wait()
    transport.close()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m postroom.local.dns", description="Serves the lab's zones.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--dir", required=True, type=Path)
    given = parser.parse_args()
    host, _, port = given.listen.rpartition(":")
    configure("dns")

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(host, int(port), given.dir, stop)

    asyncio.run(run())


if __name__ == "__main__":
    main()
