"""Real mail servers and clients hand their mail to our MX: Postfix, Exim (by BDAT), swaks, smtp-source."""

from __future__ import annotations

import asyncio
import smtplib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.mtas import exim, postfix
from inbound_smtp.recipients import Recipients
from mailcore.blob.base import BlobStore
from mailcore.flow.receive import Receives
from mailcore.store.session import Store
from peers import peer
from stack import traversable

from .harness import Server, certificate, serving

ODD = (
    b"Subject: =?utf-8?q?x?=\r\nFrom: a@sender.example\r\nTo: bob@peer.test\r\n\r\n"
    b".\r\n..\r\n\xc3\xa4\xff\r\n" + b"x" * 900 + b"\r\n.end\r\n"
)
LARGE = ODD + (b"y" * 76 + b"\r\n") * 8_000


@pytest.fixture
async def mx(
    org: UUID,
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    store: Store,
    receives: Receives,
    tmp_path: Path,
) -> AsyncIterator[Server]:
    """For peer.test, with a certificate."""
    await make_domain(org, "peer.test")
    async with serving(Recipients(store), receives, **certificate(tmp_path)) as server:
        yield server


@pytest.fixture
def pem(tmp_path: Path, mx: Server) -> Path:
    traversable(tmp_path)  # the servers change to users of their own
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    return both


def _hand_over(port: int, message: bytes, *to: str, rcpt_options: tuple[str, ...] = ()) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo()
        client.sendmail("a@sender.example", list(to), message, ["BODY=8BITMIME"], rcpt_options)


async def _arrived(admin: asyncpg.Connection, count: int) -> list[asyncpg.Record]:
    async with asyncio.timeout(100):
        while await admin.fetchval("SELECT count(*) FROM arrivals") < count:
            await asyncio.sleep(0.05)
    return await admin.fetch("SELECT * FROM arrivals ORDER BY size, id")


async def _raw(blobs: BlobStore, row: asyncpg.Record) -> bytes:
    return bytes(row["raw"]) if row["raw"] is not None else await blobs.get(row["raw_blob"])


@pytest.mark.peer("postfix, exim4")
@pytest.mark.parametrize("kind", ["postfix", "exim"])
async def test_a_mail_server_relays_to_us(
    mx: Server, pem: Path, tmp_path: Path, blobs: BlobStore, admin: asyncpg.Connection, kind: str
) -> None:
    run: Any = postfix if kind == "postfix" else exim
    options = {} if kind == "postfix" else {"chunking": True}
    many = [f"bob{n}@peer.test" for n in range(100)] if kind == "exim" else [f"bob{n}@peer.test" for n in range(60, 99)]
    with run(tmp_path / kind, mx.port, pem, **options) as port:
        wishes = ("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first+2Bx@peer.test")
        await asyncio.to_thread(_hand_over, port, ODD, "bob@peer.test", rcpt_options=wishes)
        [one] = await _arrived(admin, 1)
        await asyncio.to_thread(_hand_over, port, LARGE, *many)
        rows = await _arrived(admin, 2)
    assert (one["mail_from"], one["rcpt_to"]) == ("a@sender.example", ["bob@peer.test"])
    assert (await _raw(blobs, one)).endswith(ODD.partition(b"\r\n\r\n")[2])
    large = [row for row in rows if row["size"] > len(LARGE)]
    assert sorted(each for row in large for each in row["rcpt_to"]) == sorted(many)
    assert all([(await _raw(blobs, row)).endswith(LARGE.partition(b"\r\n\r\n")[2]) for row in large])
    facts = one["facts"]
    # Exim passes octets on and says nothing of them
    assert facts["body"] == ("7BIT" if kind == "exim" else "8BITMIME")
    assert facts["protocol"] == ("ESMTPS" if kind == "exim" else "ESMTP")
    if kind == "postfix":
        told = facts["dsn"]["recipients"]["bob@peer.test"]
        assert told == {"notify": "SUCCESS,FAILURE", "orcpt": "rfc822;first+x@peer.test"}
    assert mx.mx.room.memory.held == mx.mx.room.disk.held == 0


@pytest.mark.peer("swaks")
async def test_swaks(mx: Server, admin: asyncpg.Connection) -> None:
    swaks = [peer("swaks"), "--server", f"127.0.0.1:{mx.port}", "--from", "a@sender.example", "--to", "bob@peer.test"]
    for more in ([], ["--tls"], ["--pipeline"], ["--helo", "x.example", "--protocol", "SMTP"]):
        done = await asyncio.to_thread(subprocess.run, [*swaks, *more], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
        assert "250 2.0.0 Ok: queued as" in done.stdout
    refused = await asyncio.to_thread(
        subprocess.run, [*swaks[:-1], "x@elsewhere.test"], capture_output=True, text=True, timeout=60
    )
    assert refused.returncode != 0 and "550 5.7.1" in refused.stdout
    assert {row["facts"]["protocol"] for row in await _arrived(admin, 4)} == {"ESMTP", "ESMTPS", "SMTP"}


@pytest.mark.peer("smtp-source")
async def test_smtp_source(mx: Server, admin: asyncpg.Connection) -> None:
    for more in (["-d"], []):  # all over kept connections, and a new one for each
        argv = [peer("smtp-source"), "-s", "10", "-m", "100", "-l", "4096", "-f", "a@sender.example", "-N", *more]
        argv += ["-t", "bob@peer.test", f"127.0.0.1:{mx.port}"]
        done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert len(await _arrived(admin, 200)) == 200
