"""Reports about DMARC (RFC 9990; before it RFC 7489 §7.2, appendix C): what a receiver saw of the mail that names a domain of ours.

1. `in_mail`  the parts of a mail that hold reports
2. `unpack`   gzip, zip or plain XML, told by its first octets, for many senders name it wrongly
3. `read`     the XML, a record at a time, with neither document type nor entities; what cannot be read is a defect, not the end

As of every report anybody may send one: what it says is a claim. Dialects of large senders are read as they mean it: elements with
and without namespaces, schema tags in between, `hardfail`, times as text, verdicts that are left out, stray octets.
"""

from __future__ import annotations

import io
import ipaddress
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mailcore.dns.names import normalize_domain
from mailcore.dsn.xml import Node, XmlReader
from mailcore.kit.errors import Invalid
from mailcore.mime.parse import Message, Summary

MAX_PACKED = 2_000_000
"""Octets of a report as it comes …"""
MAX_XML = 5_000_000
"""… and unpacked: more is a bomb."""
MAX_RATIO = 100
"""Octets unpacked for one packed, of a report over a megabyte; XML of many like records reaches some 50."""
MAX_IN_MAIL = 5
MAX_ROWS = 2_000
"""That are kept: those with the most messages."""
MAX_TEXT = 300
MAX_MESSAGES = 10**12
MAX_DEFECTS = 20
_ZIP_ENTRIES = 50
_TYPES = frozenset(
    (
        *("application/gzip", "application/x-gzip", "application/gzip-compressed", "application/zip"),
        *(
            "application/x-zip",
            "application/x-zip-compressed",
            "application/xml",
            "text/xml",
            "application/octet-stream",
        ),
    )
)
_NAME = re.compile(r"[^!/\\]+![^!/\\]+!\d+!\d+(?:![^!/\\]*)?\.(?:xml|zip|gz|xml\.gz)\Z", re.IGNORECASE)
_SUBJECT = re.compile(r"report[ _-]*domain\s*:", re.IGNORECASE)


class BrokenReport(ValueError):
    """What is wrong with it, in a line."""


@dataclass(frozen=True, slots=True)
class Row:
    source_ip: str
    messages: int
    dkim: bool
    """Aligned and passed, by the receiver's verdict."""
    spf: bool
    disposition: str
    """none, quarantine, reject."""
    header_from: str
    envelope_from: str
    reasons: list[dict[str, str]]
    """type and comment: why the receiver did otherwise than the policy asks."""
    results: dict[str, list[dict[str, str]]]
    """`dkim`: domain, selector, result; `spf`: domain, scope, result."""

    @property
    def passed(self) -> bool:
        return self.dkim or self.spf


@dataclass(frozen=True, slots=True)
class Report:
    organization: str
    contact: str
    report_id: str
    begins_at: datetime
    ends_at: datetime
    domain: str
    """In normal form."""
    policy: dict[str, str]
    """As it was found published: p, sp, np, adkim, aspf, pct, fo, testing …"""
    rows: list[Row]
    messages: int
    """Of all rows, also those that are not kept."""
    passed: int
    quarantined: int
    rejected: int
    defects: list[str] = field(default_factory=list)


# ---- 1. in a mail ----------------------------------------------------------------------------------------------------


def may_hold(found: Summary) -> bool:
    """Without reading it: by the file's name (RFC 9990 §3.5.2) or the subject (§3.5.3)."""
    if not any(_candidate(one.content_type, one.filename) for one in found.attachments):
        return False
    named = any(_NAME.match(one.filename or "") for one in found.attachments)
    return named or _SUBJECT.search(found.subject or "") is not None


def in_mail(message: Message) -> Iterator[Report | BrokenReport]:
    """One a part that may be a report, MAX_IN_MAIL at most."""
    parts = [one for one in message.summary().attachments if _candidate(one.content_type, one.filename)]
    for part in parts[:MAX_IN_MAIL]:
        found = message.attachment(part.n)
        if found is None:
            continue
        try:
            yield read(unpack(found[1]))
        except BrokenReport as error:
            yield error


def _candidate(content_type: str, filename: str | None) -> bool:
    return content_type in _TYPES or (filename or "").lower().endswith((".xml", ".gz", ".zip"))


# ---- 2. unpacking ----------------------------------------------------------------------------------------------------


def unpack(octets: bytes) -> bytes:
    """The XML. Raises BrokenReport."""
    if len(octets) > MAX_PACKED:
        raise BrokenReport(f"a report has at most {MAX_PACKED} octets")
    if octets[:2] == b"\x1f\x8b":
        return _gunzip(octets)
    if octets[:4] == b"PK\x03\x04":
        return _unzip(octets)
    return octets


def _most(octets: bytes) -> int:
    return min(MAX_XML, max(1_000_000, len(octets) * MAX_RATIO))


def _gunzip(octets: bytes) -> bytes:
    """One member, or several behind each other; what follows them is not looked at."""
    out, rest, most = bytearray(), octets, _most(octets)
    while rest[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            out += unpacker.decompress(rest, most + 1 - len(out))
        except zlib.error:
            raise BrokenReport("the report is no gzip") from None
        if len(out) > most:
            raise BrokenReport("the report is far too large out of its gzip")
        if not unpacker.eof:
            raise BrokenReport("the report's gzip ends early")
        rest = unpacker.unused_data
    return bytes(out)


def _unzip(octets: bytes) -> bytes:
    """The first XML file in it, else the first file."""
    end = octets.rfind(b"PK\x05\x06")
    if end < 0 or len(octets) - end < 22 or struct.unpack_from("<H", octets, end + 10)[0] > _ZIP_ENTRIES:
        raise BrokenReport("the report's zip has no directory, or a very long one")
    most = _most(octets)
    try:
        with zipfile.ZipFile(io.BytesIO(octets)) as archive:
            files = [one for one in archive.infolist() if not one.is_dir() and "__MACOSX" not in one.filename]
            files.sort(key=lambda one: not one.filename.lower().endswith(".xml"))
            if not files:
                raise BrokenReport("the report's zip is empty")
            with archive.open(files[0]) as file:
                out = file.read(most + 1)
    except BrokenReport:
        raise
    except Exception as error:  # zipfile raises what it happens to run into
        raise BrokenReport("the report is no zip that can be read") from error
    if len(out) > most:
        raise BrokenReport("the report is far too large out of its zip")
    return out


# ---- 3. reading ------------------------------------------------------------------------------------------------------


def read(xml: bytes) -> Report:
    """Raises BrokenReport where it is none, or does not say whose, when and of which domain."""
    reader = XmlReader(("report_metadata", "policy_published", "record"), max_octets=MAX_XML)
    parts: dict[str, list[Node]] = {"report_metadata": [], "policy_published": []}
    tally = _Tally()
    for name, node in reader.read(xml):
        if name == "record":
            tally.add(node)
        elif len(parts[name]) < 2:
            parts[name].append(node)
    if reader.wrong:
        tally.defect(reader.wrong)
    if not parts["report_metadata"] or not parts["policy_published"]:
        raise BrokenReport(reader.wrong or "the XML is no DMARC report: it lacks its metadata or the policy")
    about, policy = parts["report_metadata"][0], parts["policy_published"][0]
    report_id = about.text("report_id").strip("<> ")
    if not report_id:
        raise BrokenReport("the report lacks its report_id")
    try:
        domain = normalize_domain(policy.text("domain"), underscore=True)
    except Invalid as error:
        raise BrokenReport("the report is of no domain") from error
    begins, ends = _range(about)
    for each in about.texts("error"):
        tally.defect(f"its sender says: {each}")
    return Report(
        organization=about.text("org_name") or about.text("email").rpartition("@")[2] or "unknown",
        contact=about.text("email"),
        report_id=report_id,
        begins_at=begins,
        ends_at=ends,
        domain=domain,
        policy={name: text for name in _POLICY if (text := policy.text(name).lower())},
        rows=tally.kept(),
        messages=tally.messages,
        passed=tally.passed,
        quarantined=tally.of["quarantine"],
        rejected=tally.of["reject"],
        defects=tally.defects,
    )


_POLICY = ("p", "sp", "np", "adkim", "aspf", "pct", "fo", "testing", "discovery_method")


def _range(about: Node) -> tuple[datetime, datetime]:
    span = about.node("date_range")
    begins, ends = (_moment(span.text(name)) for name in ("begin", "end"))
    if begins > ends:
        begins, ends = ends, begins
    if ends - begins > timedelta(days=40):
        raise BrokenReport("the report's date_range is longer than a month")
    return begins, ends


def _moment(text: str) -> datetime:
    """Seconds since 1970; of some senders with a fraction, in milliseconds, or a date and time (UTC where they do not say)."""
    try:
        if re.fullmatch(r"\d{1,13}(?:\.\d{1,9})?", text, re.ASCII):
            seconds = float(text)
            found = datetime.fromtimestamp(seconds / 1000 if seconds > 10**11 else seconds, UTC)
        else:
            found = datetime.fromisoformat(text)
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise BrokenReport("the report's date_range is no pair of times") from None
    if not 1970 <= found.year < 2200:
        raise BrokenReport("the report's date_range is no pair of times")
    return found


class _Tally:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.seen = self.unreadable = 0
        self.messages = self.passed = 0
        self.of = {"none": 0, "quarantine": 0, "reject": 0}
        self.defects: list[str] = []

    def defect(self, text: str) -> None:
        if len(self.defects) < MAX_DEFECTS and text not in self.defects:
            self.defects.append(text[:MAX_TEXT])

    def add(self, record: Node) -> None:
        self.seen += 1
        row = _row(record)
        if row is None:
            self.unreadable += 1
            self.defect("a record without an address or a number of messages was passed over")
            return
        self.messages += row.messages
        self.passed += row.messages if row.passed else 0
        self.of[row.disposition] += row.messages
        self.rows.append(row)
        if len(self.rows) > 2 * MAX_ROWS:
            self._trim()

    def _trim(self) -> None:
        self.rows.sort(key=lambda row: -row.messages)
        del self.rows[MAX_ROWS:]

    def kept(self) -> list[Row]:
        self._trim()
        if self.seen > len(self.rows) + self.unreadable:
            self.defect(f"of {self.seen} records the {len(self.rows)} with the most messages are kept")
        return self.rows


def _row(record: Node) -> Row | None:
    row, who = record.node("row"), record.node("identifiers") or record.node("identities")
    address, messages = _address(row.text("source_ip")), _count(row.text("count"))
    if address is None or messages is None:
        return None
    verdict, raw = row.node("policy_evaluated"), record.node("auth_results")
    header_from = who.text("header_from").lower().rstrip(".")
    results = {
        "dkim": [_result(each, "domain", "selector") for each in raw.nodes("dkim")],
        "spf": [_result(each, "domain", "scope") for each in raw.nodes("spf")],
    }
    disposition = verdict.text("disposition").lower()
    return Row(
        source_ip=address,
        messages=messages,
        dkim=_aligned(verdict.text("dkim"), results["dkim"], header_from),
        spf=_aligned(verdict.text("spf"), results["spf"], header_from),
        disposition=disposition if disposition in ("quarantine", "reject") else "none",
        header_from=header_from,
        envelope_from=who.text("envelope_from").lower(),
        reasons=[
            {"type": each.text("type").lower() or "other", "comment": each.text("comment")}
            for each in verdict.nodes("reason")
        ],
        results=results,
    )


def _result(node: Node, *names: str) -> dict[str, str]:
    result = node.text("result").lower()
    # as some senders write it
    result = {"hardfail": "fail", "error": "temperror", "unknown": "permerror", "": "none"}.get(result, result)
    return {**{name: node.text(name).lower() for name in names if node.text(name)}, "result": result[:20]}


def _aligned(verdict: str, results: list[dict[str, str]], header_from: str) -> bool:
    """The receiver's verdict; where it is left out, what its raw results come to in relaxed mode."""
    if verdict:
        return verdict.lower() == "pass"
    return any(
        each["result"] == "pass" and header_from and _related(each.get("domain", ""), header_from) for each in results
    )


def _related(one: str, other: str) -> bool:
    return bool(one) and (one == other or one.endswith(f".{other}") or other.endswith(f".{one}"))


def _address(text: str) -> str | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    return str(getattr(found, "ipv4_mapped", None) or found)


def _count(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,15})(?:\.0+)?", text, re.ASCII)
    return min(int(match[1]), MAX_MESSAGES) if match else None
