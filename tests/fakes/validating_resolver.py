"""Unbound as a validating resolver on loopback, with zones of the caller's: signed, unsigned, and signed but changed afterwards.

Its only trust anchors are the keys of the signed zones, made for this run; it asks nobody else.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec
from dns.dnssectypes import Algorithm

from peers import free_port, peer

Records = Mapping[str, Mapping[str, Sequence[str]]]
"""`{"mx.signed.example": {"A": ["127.0.0.1"]}}`, TXT without quotes."""


@dataclass
class Zone:
    origin: str
    records: Records
    signed: bool = False
    spoiled: Records = field(default_factory=dict)
    """Put in place of what was signed: their signatures are wrong."""


class ValidatingResolver:
    """`async with ValidatingResolver(folder, zones) as server:`; `server.address` is `127.0.0.1:port`."""

    def __init__(self, folder: Path, zones: Sequence[Zone]) -> None:
        self._folder = folder
        self._zones = zones
        self._port = free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        program = peer("unbound")
        anchors = [anchor for zone in self._zones if (anchor := self._write(zone))]
        # nobody in the world is asked: the root is here, and holds nothing
        (self._folder / "root.zone").write_text(". 60 IN SOA ns. hostmaster. 1 3600 600 86400 60\n. 60 IN NS ns.\n")
        config = self._folder / "unbound.conf"
        config.write_text(self._config(anchors))
        self._log = (self._folder / "unbound.log").open("wb")
        self._process = subprocess.Popen([program, "-d", "-c", str(config)], stdout=self._log, stderr=self._log)
        async with asyncio.timeout(60):
            while True:
                assert self._process.poll() is None, (self._folder / "unbound.log").read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                await writer.wait_closed()
                return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 20)
        self._log.close()

    def _config(self, anchors: Sequence[str]) -> str:
        lines = [
            "server:",
            *("interface: 127.0.0.1", f"port: {self._port}", "access-control: 127.0.0.0/8 allow"),
            *('chroot: ""', 'username: ""', 'pidfile: ""', f'directory: "{self._folder}"', "use-syslog: no"),
            *("do-daemonize: no", "num-threads: 1", "val-log-level: 2", 'module-config: "validator iterator"'),
            'local-zone: "test." nodefault',
            *(f'trust-anchor: "{anchor}"' for anchor in anchors),
            "remote-control:",
            "control-enable: no",
        ]
        for zone in self._zones:
            lines += [
                "auth-zone:",
                *(
                    f'name: "{zone.origin}"',
                    f'zonefile: "{zone.origin}.zone"',
                    "for-downstream: no",
                    "for-upstream: yes",
                ),
                "fallback-enabled: no",
            ]
        return "\n".join(line for line in lines if line) + "\n"

    def _write(self, zone: Zone) -> str | None:
        """Its file; the trust anchor where it is signed."""
        origin = dns.name.from_text(zone.origin)
        made = dns.zone.Zone(origin, relativize=False)
        soa = f"ns.{zone.origin}. hostmaster.{zone.origin}. 1 3600 600 86400 60"
        _put(made, zone.origin, "SOA", [soa])
        _put(made, zone.origin, "NS", [f"ns.{zone.origin}."])
        for name, types in zone.records.items():
            for rdtype, values in types.items():
                _put(made, name, rdtype, values)
        anchor = None
        if zone.signed:
            private = ec.generate_private_key(ec.SECP256R1())
            key = dns.dnssec.make_dnskey(private.public_key(), Algorithm.ECDSAP256SHA256, flags=257)
            dns.dnssec.sign_zone(made, keys=[(private, key)], lifetime=86_400)
            anchor = f"{zone.origin}. DNSKEY {key.to_text()}"
        for name, types in zone.spoiled.items():
            for rdtype, values in types.items():
                _put(made, name, rdtype, values)
        made.to_file(str(self._folder / f"{zone.origin}.zone"), relativize=False)
        return anchor


def _put(zone: dns.zone.Zone, name: str, rdtype: str, values: Sequence[str]) -> None:
    texts = ['"' + value.replace('"', '\\"') + '"' if rdtype == "TXT" else value for value in values]
    rdata = [dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(rdtype), text) for text in texts]
    zone.replace_rdataset(dns.name.from_text(name), dns.rdataset.from_rdata_list(60, rdata))
