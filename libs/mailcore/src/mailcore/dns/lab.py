"""The lab's zones: DNS data in plain files, for a catch-mode stack and for tests. No sockets here.

A zone is `<folder>/<zone>.json`: `{"records": [{"name", "type", "value", "ttl"}]}`, replaced as a whole.

    name    `@` or empty for the zone itself, relative (`mail`) or in full (`mail.example.test`)
    value   as in a zone file; names in values are in full unless they are a single label; TXT is plain text of any length,
            or quoted strings; MX takes its preference from the value (`10 mail.example.test`) or from `priority`
    ttl     seconds, 60 when left out

Two values make a name misbehave: `SERVFAIL` answers so, `TIMEOUT` does not answer at all.

1. `check_records` validates input; `put_zone` writes it. 2. `read_zone` reads it. 3. `Zone.find` answers for a name and type.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT

from mailcore.kit.errors import Invalid

TYPES: Final = ("A", "AAAA", "MX", "TXT", "NS", "SOA", "CNAME", "CAA", "TLSA", "PTR", "SRV")
MISBEHAVE: Final = ("SERVFAIL", "TIMEOUT")
MAX_RECORDS: Final = 2_000
MAX_VALUE: Final = 16_384
"""Characters of one value. 64 KiB is the limit of one record (RFC 1035 §3.2.1); an answer must hold it and the rest too."""
DEFAULT_TTL: Final = 60
MAX_TTL: Final = 2**31 - 1  # RFC 2181 §8
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NAMED: Final = {"MX": 1, "NS": 0, "CNAME": 0, "PTR": 0, "SRV": 3}
"""Where in a value its name stands."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record, checked. `value` is what the file holds; `rdata` is None for a value that makes the name misbehave."""

    name: dns.name.Name
    type: str
    value: str
    ttl: int
    rdata: dns.rdata.Rdata | None


@dataclass(frozen=True, slots=True)
class Found:
    """`exists` tells NODATA (the name is there, not the type) from NXDOMAIN (RFC 2308 §2)."""

    exists: bool
    records: tuple[Record, ...] = ()
    misbehaves: str | None = None


class Zone:
    """A zone in memory, with the SOA and NS that it lacks made up, so that every answer is well-formed."""

    def __init__(self, origin: dns.name.Name, records: Iterable[Record]) -> None:
        self.origin = origin
        self._nodes: dict[dns.name.Name, list[Record]] = {}
        self._above: set[dns.name.Name] = {origin}  # empty non-terminals exist (RFC 8020 §2)
        for record in records:
            self._nodes.setdefault(record.name, []).append(record)
            name = record.name
            while name != origin:
                name = name.parent()
                self._above.add(name)
        apex = self._nodes.setdefault(origin, [])
        for kind, value in (("SOA", "ns postmaster 1 3600 600 86400 0"), ("NS", "ns")):
            if not any(record.type == kind for record in apex):
                apex.append(_record(origin, origin, kind, value, DEFAULT_TTL))

    def find(self, name: dns.name.Name, type_: str) -> Found:
        """Records of that type, or the CNAME that stands in their place (RFC 1034 §4.3.2 step 3a); `ANY` finds all."""
        node = self._nodes.get(name, [])
        for record in node:
            if record.rdata is None:
                return Found(exists=True, misbehaves=record.value)
        hits = tuple(record for record in node if type_ in (record.type, "ANY"))
        if not hits:
            hits = tuple(record for record in node if record.type == "CNAME")
        return Found(exists=bool(node) or name in self._above, records=hits)

    @property
    def soa(self) -> Record:
        return next(record for record in self._nodes[self.origin] if record.type == "SOA")


def zone_origin(zone: str) -> dns.name.Name:
    """The zone's name. Raises Invalid (also for what would not do as a file name)."""
    text = zone.strip().rstrip(".").lower()
    with contextlib.suppress(UnicodeError):
        text = text.encode("idna").decode() if not text.isascii() else text
    if not text or len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise Invalid(f"`{zone[:80]}` is not a zone name. Use letters, digits and hyphens, for example example.test.")
    return dns.name.from_text(text)


def check_records(zone: str, records: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Raises Invalid for the first record that cannot be served, naming it."""
    origin = zone_origin(zone)
    if len(records) > MAX_RECORDS:
        raise Invalid(f"A zone holds at most {MAX_RECORDS} records. Split it into several zones.")
    checked: list[Record] = []
    for number, item in enumerate(records):
        try:
            checked.append(_checked(origin, item))
        except Invalid as error:
            raise Invalid(f"records[{number}]: {error.public}") from None
    aliases = {record.name for record in checked if record.type == "CNAME" and record.rdata is not None}
    for number, record in enumerate(checked):
        if record.name in aliases and (
            record.type != "CNAME" or sum(other.name == record.name for other in checked) > 1
        ):  # RFC 1034 §3.6.2
            raise Invalid(f"records[{number}]: {record.name} has a CNAME, so it can have no other record. Remove one.")
        if record.type == "SOA" and record.name != origin:
            raise Invalid(f"records[{number}]: a SOA stands only at the zone itself. Name it @.")
    if sum(record.type == "SOA" for record in checked) > 1:
        raise Invalid("A zone has one SOA. Remove the others.")
    return checked


def put_zone(folder: str | Path, zone: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the zone in one step; the DNS answers from it at once. Raises Invalid."""
    origin = zone_origin(zone)
    checked = check_records(zone, records)
    content = {
        "records": [
            {
                "name": record.name.to_text(omit_final_dot=True),
                "type": record.type,
                "value": record.value,
                "ttl": record.ttl,
            }
            for record in checked
        ]
    }
    path = zone_file(Path(folder), origin)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def zone_file(folder: Path, origin: dns.name.Name) -> Path:
    return folder / f"{origin.to_text(omit_final_dot=True).lower()}.json"


def read_zone(path: Path) -> Zone:
    """Raises Invalid when the file is not a zone, OSError when it cannot be read."""
    zone = path.name.removesuffix(".json")
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        raise Invalid(f"{path.name} is not JSON. Write the zone again.") from None
    records = content.get("records") if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise Invalid(f"{path.name} has no list `records`. Write the zone again.")
    return Zone(zone_origin(zone), check_records(zone, records))


def _checked(origin: dns.name.Name, item: Any) -> Record:
    if not isinstance(item, Mapping):
        raise Invalid("A record is an object with name, type and value.")
    unknown = set(item) - {"name", "type", "value", "ttl", "priority"}
    if unknown:
        raise Invalid(f"`{sorted(map(str, unknown))[0]}` is unknown. A record has name, type, value, ttl and priority.")
    kind, value, ttl = item.get("type"), item.get("value"), item.get("ttl")
    if not isinstance(kind, str) or kind.upper() not in TYPES:
        raise Invalid(f"`type` must be one of {', '.join(TYPES)}.")
    if not isinstance(value, str) or not value or len(value) > MAX_VALUE:
        raise Invalid(f"`value` must be a text of 1 to {MAX_VALUE} characters.")
    if ttl is None:
        ttl = DEFAULT_TTL
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not 0 <= ttl <= MAX_TTL:
        raise Invalid(f"`ttl` must be a whole number of seconds from 0 to {MAX_TTL}.")
    priority = item.get("priority")
    if priority is not None:
        if kind.upper() not in ("MX", "SRV") or not isinstance(priority, int) or isinstance(priority, bool):
            raise Invalid("`priority` must be a whole number and belongs to MX and SRV only.")
        value = f"{priority} {value}"
    return _record(origin, _owner(origin, item.get("name")), kind.upper(), value, ttl)


def _owner(origin: dns.name.Name, name: object) -> dns.name.Name:
    if not isinstance(name, str) or len(name) > 255:
        raise Invalid("`name` must be a text: @ for the zone itself, a name in it, or a relative name.")
    text = name.strip().lower()
    if text in ("", "@"):
        return origin
    if not all(_LABEL.fullmatch(label) for label in text.rstrip(".").split(".")):
        raise Invalid(f"`{name[:80]}` is not a name. Use letters, digits, hyphens and underscores between dots.")
    try:
        absolute = dns.name.from_text(text.rstrip("."))
        if absolute.is_subdomain(origin):
            return absolute
        if text.endswith("."):
            raise Invalid(f"`{name[:80]}` is outside {origin.to_text(omit_final_dot=True)}. Put it into its own zone.")
        return dns.name.from_text(text, origin)
    except dns.exception.DNSException:
        raise Invalid(f"`{name[:80]}` is too long for a name.") from None


def _record(origin: dns.name.Name, name: dns.name.Name, kind: str, value: str, ttl: int) -> Record:
    if value in MISBEHAVE:
        return Record(name, kind, value, ttl, None)
    return Record(name, kind, value, ttl, _rdata(origin, kind, value))


def _rdata(origin: dns.name.Name, kind: str, value: str) -> dns.rdata.Rdata:
    try:
        if kind == "TXT" and not value.startswith('"'):
            return _text(value)
        if kind == "SOA":
            return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.SOA, value, origin, relativize=False)
        rdata = dns.rdata.from_text(
            dns.rdataclass.IN, dns.rdatatype.from_text(kind), _in_full(kind, value), origin, relativize=False
        )
    except (dns.exception.DNSException, ValueError) as error:
        raise Invalid(f"`value` is not a {kind} ({str(error) or type(error).__name__}).") from None
    return rdata


def _text(value: str) -> dns.rdata.Rdata:
    raw = value.encode("utf-8", "surrogatepass")
    strings = [raw[at : at + 255] for at in range(0, len(raw), 255)]  # RFC 7208 §3.3: joined without spaces
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings)


def _in_full(kind: str, value: str) -> str:
    """With a final dot on the name in the value, unless it is one label of this zone."""
    if "\n" in value or "\r" in value:
        raise Invalid("`value` must be on one line.")
    words = value.split()
    place = _NAMED.get(kind)
    if place is not None and len(words) == place + 1 and "." in words[place] and not words[place].endswith("."):
        words[place] += "."
        return " ".join(words)
    return value
