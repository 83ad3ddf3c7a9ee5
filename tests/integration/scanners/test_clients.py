"""The protocol clients, with the daemons that they are for; one contract for those and the stand-in."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from gzip import compress

import pytest

from fakes.scanner_daemons import EICAR, Daemon, saying
from mailcore.kit.errors import Invalid, Unavailable
from mailcore.mime.parse import Message
from mailcore.scanners.base import MAX_TAGS, Facts, Finding, Scanner, Verdict, nameless
from mailcore.scanners.clamd import Clamd
from mailcore.scanners.gtube import STRINGS
from mailcore.scanners.null import NullScanner
from mailcore.scanners.registry import operators_client
from mailcore.scanners.rspamd import Rspamd
from mailcore.scanners.spamd import Spamd, handed_over
from mailcore.scanners.wire import Address, address
from peers import free_port

HAM = (
    b"Received: from mail.sender.example (mail.sender.example [192.0.2.7]) by mx.postroom.test; Sat, 21 Nov 2026 10:00:00 +0000\r\n"
    b"From: Ann Lee <ann@sender.example>\r\nTo: Bob <bob@postroom.test>\r\nSubject: Minutes of Tuesday\r\n"
    b"Date: Sat, 21 Nov 2026 10:00:00 +0000\r\nMessage-ID: <20261121100000.17@sender.example>\r\n\r\n"
    b"Dear Bob,\r\n\r\nhere are the minutes of Tuesday's meeting, as promised. The next one is in a week.\r\n\r\nAnn\r\n"
)
GTUBE = HAM + STRINGS[0].encode() + b"\r\n"
VIRUS = HAM + EICAR + b"\r\n"


def facts(raw: bytes, **more: object) -> Facts:
    told: dict[str, object] = {
        "id": "0192",
        "client_ip": "192.0.2.7",
        "helo": "mail.sender.example",
        "mail_from": "ann@sender.example",
        "rcpt_to": ("bob@postroom.test",),
        "size": len(raw),
        "summary": Message(raw).summary(),
        "hostname": "mx.postroom.test",
        "client_name": "mail.sender.example",
    }
    return Facts(**{**told, **more})  # type: ignore[arg-type]


def at(port: int) -> Address:
    return Address("127.0.0.1", port)


SECONDS = 60.0
"""A busy machine scans slowly, and is not away."""
MAKE: dict[str, tuple[Callable[[int], Scanner], bytes, Verdict]] = {
    "null": (
        lambda _: NullScanner({STRINGS[0].encode(): Finding("null", Verdict.SPAM, tags=("GTUBE",))}),
        GTUBE,
        Verdict.SPAM,
    ),
    "spamd": (lambda port: Spamd(at(port), seconds=SECONDS), GTUBE, Verdict.SPAM),
    "rspamd": (
        lambda port: Rspamd(operators_client(), f"http://127.0.0.1:{port}", seconds=SECONDS),
        GTUBE,
        Verdict.SPAM,
    ),
    "clamd": (lambda port: Clamd(at(port), seconds=SECONDS), VIRUS, Verdict.INFECTED),
}


@pytest.mark.parametrize("name", MAKE)
async def test_what_every_scanner_does(name: str, request: pytest.FixtureRequest) -> None:
    make, bad, verdict = MAKE[name]
    port = 0 if name == "null" else request.getfixturevalue(name).port
    scanner = make(port)
    clean = await scanner.scan(HAM, facts(HAM))
    assert (clean.scanner, clean.verdict) == (name, Verdict.CLEAN), clean
    found = await scanner.scan(bad, facts(bad))
    assert found.verdict is verdict
    assert found.tags
    # many at a time, each its own answer
    asked = [HAM, bad] * 5
    several = await asyncio.gather(*(scanner.scan(raw, facts(raw)) for raw in asked))
    assert [one.verdict for one in several] == [Verdict.CLEAN, verdict] * 5
    # nobody there
    away = make(free_port())
    if isinstance(away, NullScanner):
        away.away = True
    with pytest.raises(Unavailable) as told:
        await away.scan(HAM, facts(HAM))
    assert "127.0.0.1" not in told.value.public
    await scanner.close()
    await away.close()


# ---- ClamAV ----------------------------------------------------------------------------------------------------------


def _attached(content: bytes, name: str = "invoice.bin") -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ann@sender.example", "bob@postroom.test", "Invoice"
    mail.set_content("See attachment.")
    mail.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _zip(content: bytes, name: str = "eicar.com") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


def _quoted() -> bytes:
    encoded = b"".join(b"=%02X" % octet for octet in EICAR)
    lines = b"=\r\n".join(encoded[n : n + 60] for n in range(0, len(encoded), 60))
    head = b"From: ann@sender.example\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; name=a.txt\r\n"
    return head + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + lines + b"\r\n"


def _nested() -> bytes:
    inner = MIMEMultipart()
    inner["Subject"] = "Fwd"
    inner.attach(MIMEApplication(_zip(EICAR), name="a.zip"))
    outer = MIMEMultipart()
    outer["From"] = "ann@sender.example"
    outer.attach(MIMEMessage(inner))
    return outer.as_bytes().replace(b"\n", b"\r\n")


WRAPPINGS = {
    "plain": VIRUS,
    "base64": _attached(EICAR),
    "quoted-printable": _quoted(),
    "zip": _attached(_zip(EICAR), "a.zip"),
    "zip in zip": _attached(_zip(_zip(EICAR), "inner.zip"), "a.zip"),
    "gzip": _attached(compress(EICAR, mtime=0), "a.gz"),
    "zip in a mail in a mail": _nested(),
}


@pytest.mark.parametrize("how", WRAPPINGS)
async def test_c6_eicar_is_found_in_all_its_wrappings(how: str, clamd: Daemon) -> None:
    raw = WRAPPINGS[how]
    found = await Clamd(at(clamd.port), seconds=SECONDS).scan(raw, facts(raw))
    assert found.verdict is Verdict.INFECTED, found
    assert found.tags == ("Eicar-Test.UNOFFICIAL",)


async def test_d23_a_large_mail_goes_through_in_pieces(clamd: Daemon) -> None:
    large = _attached(b"\0" * 5_000_000 + EICAR)
    assert (await Clamd(at(clamd.port), seconds=SECONDS).scan(large, facts(HAM))).verdict is Verdict.INFECTED


@pytest.mark.parametrize("size", [3_000_000, 30_000_000], ids=["what a socket holds", "more"])
async def test_what_clamd_finds_too_large_was_not_scanned(size: int) -> None:
    """It says so and goes, with most of the mail unread: that resets the connection while we write."""

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"INSTREAM size limit exceeded. ERROR\0")
        await writer.drain()
        writer.write_eof()
        await reader.read(10_000_000)

    async with saying(refuses) as port:
        found = await Clamd(at(port), seconds=SECONDS).scan(b"x" * size, facts(HAM))
    assert found.verdict is Verdict.SKIPPED
    assert "StreamMaxLength" in found.detail


# ---- SpamAssassin ----------------------------------------------------------------------------------------------------


async def test_b45_points_and_rules_come_with_the_verdict(spamd: Daemon) -> None:
    found = await Spamd(at(spamd.port), seconds=SECONDS).scan(GTUBE, facts(GTUBE))
    assert found.score is not None and found.score >= 1000
    assert "GTUBE" in found.tags
    assert found.reason == "gtube"


async def test_spamd_learns_a_mail_once(spamd: Daemon) -> None:
    scanner = Spamd(at(spamd.port), seconds=SECONDS)
    assert await scanner.learn(HAM, spam=True)
    assert not await scanner.learn(HAM, spam=True)
    assert await scanner.learn(HAM, spam=False)  # it was wrong


async def test_who_handed_it_over_stands_on_top_of_the_mail_and_nothing_else_does() -> None:
    told = handed_over(facts(HAM, helo="evil\r\nX-Spam: no", client_ip="2001:db8::1", mail_from="a\r\nb@x>"))
    assert told.count(b"\r\n") == 3
    assert b"[IPv6:2001:db8::1]" in told
    assert told.startswith(b"Return-Path: <ab@x>\r\nReceived: from evilX-Spam:no (mail.sender.example [IPv6:")
    assert handed_over(facts(HAM, client_ip=None)) == b""


# ---- answers that no scanner gives -----------------------------------------------------------------------------------

_SPAMD_OK = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 2\r\n"
STRANGE = {
    "nothing": b"",
    "garbage": b"\xff\x00" * 500,
    "endless": b"A" * 400_000,
    "no verdict": _SPAMD_OK + b"\r\n",
    "a number that is none": _SPAMD_OK + b"Spam: True ; 1e400 / 5.0\r\n\r\n",
    "overloaded": b"SPAMD/1.1 75 EX_TEMPFAIL\r\n\r\n",
    "half a head": b"SPAMD/1.1 0 EX_OK\r\nSpam: Tr",
    "html": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>",
    "json of another kind": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[[]]",
    "an unknown action": b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"action":"dance"}',
    "an error": b"stream: Can't allocate memory ERROR\0",
}


@pytest.mark.parametrize("kind", ["spamd", "rspamd", "clamd"])
@pytest.mark.parametrize("answer", STRANGE)
async def test_c6_what_cannot_be_understood_is_no_verdict(kind: str, answer: str) -> None:
    async with saying(STRANGE[answer]) as port:
        scanner = MAKE[kind][0](port)
        scanner.seconds = 5
        with pytest.raises(Unavailable):
            await scanner.scan(HAM, facts(HAM))
        await scanner.close()


@pytest.mark.parametrize("kind", ["spamd", "rspamd", "clamd"])
async def test_c6_who_is_slow_is_away(kind: str) -> None:
    async def sleeps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    async with saying(sleeps) as port:
        scanner = MAKE[kind][0](port)
        scanner.seconds = 0.1
        with pytest.raises(Unavailable, match=r"0\.1 s"):
            await scanner.scan(HAM * 10_000, facts(HAM))
        await scanner.close()


def test_what_a_scanner_says_is_cut_and_cleaned() -> None:
    strange = Finding(
        "x",
        Verdict.SPAM,
        float("inf"),
        tuple("r\x00\x1b[1m" + "n" * 500 for _ in range(500)),
        "a\r\nb" * 5_000,
        "z" * 99,
    ).clean()
    assert strange.score is None
    assert len(strange.tags) == MAX_TAGS and all(len(tag) <= 80 and tag.isprintable() for tag in strange.tags)
    assert len(strange.detail) <= 500 and strange.detail.isprintable()
    assert Finding.from_json(strange.json()) == strange


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("No connection to ai:11333: all attempts failed.", "No connection to rspamd: all attempts failed."),
        ("Looking up ai failed: no such name.", "Looking up rspamd failed: no such name."),
        ("Looking up AI took longer than 5 s.", "Looking up rspamd took longer than 5 s."),
        ("mail.ai.example has no address.", "mail.ai.example has no address."),
    ],
    ids=["host and port", "host", "capitals", "another"],
)
def test_what_it_failed_at_names_no_host_of_ours(words: str, told: str) -> None:
    assert nameless(words, "http://ai:11333/checkv2", "rspamd") == told


def test_an_address_is_host_and_port_or_a_path() -> None:
    assert address("127.0.0.1:12", 783) == Address("127.0.0.1", 12)
    assert address("spamd", 783) == Address("spamd", 783)
    assert address("[::1]:12", 783) == Address("::1", 12)
    assert address("::1", 783) == Address("::1", 783)
    assert address("unix:/run/clamd.ctl", 1) == address("/run/clamd.ctl", 1) == Address("", 0, "/run/clamd.ctl")
    for wrong in ("", "host:0", "host:port", "host:99999"):
        with pytest.raises(Invalid):
            address(wrong, 783)
