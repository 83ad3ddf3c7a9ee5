"""The catcher as a process of its own, driven over sockets as a peer would."""

import os
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailcore.blob.caught import list_caught, read_raw
from peers import free_port
from postroom.local import tls
from postroom.local.catcher import SLOW_SECONDS
from stack import wait_for


@dataclass
class Catcher:
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.test", timeout=60)


def start(folder: Path, port: int) -> Catcher:
    pem = folder / "tls"
    pem.mkdir(exist_ok=True)
    tls.ensure(pem, datetime.now(UTC))
    command = [sys.executable, "-m", "postroom.local.catcher", "--listen", f"127.0.0.1:{port}", "--dir", str(folder)]
    certificate = ["--certificate", str(pem / "cert.pem"), "--key", str(pem / "key.pem")]
    process = subprocess.Popen([*command, *certificate], stdout=subprocess.DEVNULL)
    wait_for(lambda: _listens(port), "the catcher listens")
    return Catcher(folder, port, process)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def catcher(tmp_path: Path) -> Iterator[Catcher]:
    catcher = start(tmp_path, free_port())
    yield catcher
    catcher.process.send_signal(signal.SIGTERM)
    assert catcher.process.wait(60) == 0


def test_the_exact_bytes_are_kept(catcher: Catcher) -> None:
    raw = b"Subject: =?utf-8?q?h=C3=A9?=\r\n\r\n.one\r\n..two\r\n.\x00\xff bare\rcr and\nlf\n.\nnot the end\r\n\r\n"
    with catcher.client() as client:
        client.ehlo()
        assert {"pipelining", "8bitmime", "smtputf8", "size", "starttls"} <= set(client.esmtp_features)
        client.mail("from@a.test", ["body=8bitmime", f"size={len(raw)}"])
        assert client.rcpt("to@b.test")[0] == 250
        client.putcmd("DATA")
        assert client.getreply()[0] == 354
        client.send(raw.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        assert client.getreply()[0] == 250
    (caught,) = list_caught(catcher.folder)
    assert read_raw(catcher.folder, caught.id) == raw
    assert (caught.mail_from, caught.rcpt_to, caught.subject) == ("from@a.test", ("to@b.test",), "hé")
    assert caught.peer.startswith("127.0.0.1:")


def test_pipelined_commands_are_answered_in_order_in_spite_of_how_they_are_cut(catcher: Catcher) -> None:
    session = (
        b"EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<450-a@b.test>\r\nRCPT TO:<a@b.test>\r\nDATA\r\nSubject: 1\r\n\r\nx\r\n.\r\n"
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n"
    )
    for cut in (1, 7, len(session)):
        with socket.create_connection(("127.0.0.1", catcher.port), 60) as peer:
            for at in range(0, len(session), cut):
                peer.sendall(session[at : at + cut])
            answer = b""
            while chunk := peer.recv(4096):
                answer += chunk
        codes = [line[:3] for line in answer.split(b"\r\n") if line[3:4] == b" "]
        expected = b"220 250 250 450 250 354 250 250 250 354 250 250 250 221"
        assert codes == expected.split(), answer
    assert [caught.size for caught in list_caught(catcher.folder)] == [17, 0] * 3


@pytest.mark.parametrize(
    ("local_part", "code", "enhanced"),
    [
        ("450-x", 450, "4.2.0"),
        ("550-x", 550, "5.1.1"),
        ("552-x", 552, "5.2.2"),
        ("471-x", 471, "4.0.0"),
        ("250-x", 250, "2.1.5"),
        ("5500-x", 250, "2.1.5"),
    ],
)
def test_a_recipient_scripts_its_answer(catcher: Catcher, local_part: str, code: int, enhanced: str) -> None:
    with catcher.client() as client:
        client.ehlo()
        client.mail("a@a.test")
        reply = client.rcpt(f"{local_part}@b.test")
    assert reply[0] == code
    assert reply[1].decode().startswith(enhanced)


def test_421_ends_the_connection(catcher: Catcher) -> None:
    client = catcher.client()
    client.ehlo()
    client.mail("a@a.test")
    assert client.rcpt("421-x@b.test")[0] == 421
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.noop()


def test_a_slow_recipient_is_answered_later(catcher: Catcher) -> None:
    begun = time.monotonic()
    with catcher.client() as client:
        client.sendmail("a@a.test", ["slow-x@b.test", "quick@b.test"], b"Subject: x\r\n\r\n")
    assert time.monotonic() - begun >= SLOW_SECONDS  # at least what was asked for: no upper bound
    assert len(list_caught(catcher.folder)) == 1


def test_tls_is_real_and_drops_what_came_in_the_clear(catcher: Catcher) -> None:
    context = ssl.create_default_context(cafile=str(catcher.folder / "tls" / "ca.pem"))
    with socket.create_connection(("127.0.0.1", catcher.port), 60) as peer:
        peer.recv(200)
        peer.sendall(b"EHLO x\r\n")
        peer.recv(2000)
        peer.sendall(b"STARTTLS\r\nMAIL FROM:<injected@a.test>\r\n")  # RFC 3207 §4.2
        assert peer.recv(2000).startswith(b"220 ")
        with context.wrap_socket(peer, server_hostname="mail.postroom.test") as secure:
            secure.sendall(b"MAIL FROM:<a@a.test>\r\n")
            assert secure.recv(200).startswith(b"503 ")  # EHLO is forgotten too
            secure.sendall(b"EHLO x\r\n")
            assert b"STARTTLS" not in secure.recv(2000)
            secure.sendall(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n.\r\nQUIT\r\n")
            answer = b""
            while chunk := secure.recv(4096):
                answer += chunk
    assert [line[:3] for line in answer.split(b"\r\n")] == [b"250", b"250", b"354", b"250", b"221", b""]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (b"MAIL FROM:<a@a.test>", b"503"),
        (b"RCPT TO:<a@a.test>", b"503"),
        (b"DATA", b"503"),
        (b"EHLO", b"501"),
        (b"NONSENSE", b"500"),
        (b"\xff\xfe\x00", b"500"),
        (b"STARTTLS now\r\nNOOP", b"220"),
        (b"EHLO x\r\nMAIL FROM:<a@a.test> SIZE=99999999999", b"552"),
        (b"EHLO x\r\nMAIL FROM:<a@a.test> AUTH=<>", b"555"),
        (b"EHLO x\r\nMAIL FROM:a@a.test", b"501"),
        (b"EHLO x\r\nMAIL FROM:<\xff@a.test>", b"553"),
        (b"x" * 5000, b"500"),
    ],
)
def test_what_is_wrong_is_said(catcher: Catcher, command: bytes, code: bytes) -> None:
    with socket.create_connection(("127.0.0.1", catcher.port), 60) as peer:
        peer.recv(200)
        peer.sendall(command + b"\r\n")
        answer = b""
        while not any(line[:4] == code + b" " for line in answer.split(b"\r\n")):
            chunk = peer.recv(4096)
            assert chunk, answer
            answer += chunk


def test_who_only_errs_is_sent_away(catcher: Catcher) -> None:
    with socket.create_connection(("127.0.0.1", catcher.port), 60) as peer:
        peer.sendall(b"X\r\n" * 60)
        answer = b""
        while chunk := peer.recv(4096):
            answer += chunk
    assert answer.count(b"500 ") == 51
    assert answer.endswith(b"421 4.7.0 Too many errors\r\n")


def test_what_was_answered_is_there_after_kill(tmp_path: Path) -> None:
    catcher = start(tmp_path, free_port())
    accepted: list[str] = []

    def send(sender: int) -> None:
        try:
            with catcher.client() as client:
                for number in range(10_000):
                    address = f"{sender}-{number}@b.test"
                    client.sendmail("a@a.test", [f"to-{address}"], b"Subject: x\r\n\r\n")
                    accepted.append(f"to-{address}")
        except (smtplib.SMTPException, OSError):
            return

    with ThreadPoolExecutor(8) as senders:
        for sender in range(8):
            senders.submit(send, sender)
        wait_for(lambda: len(accepted) > 200, "200 mails accepted")
        os.kill(catcher.process.pid, signal.SIGKILL)
    catcher.process.wait(60)
    kept = {caught.rcpt_to[0] for caught in list_caught(tmp_path)}
    assert set(accepted) <= kept
    again = start(tmp_path, catcher.port)
    with again.client() as client:
        client.sendmail("a@a.test", ["after@b.test"], b"Subject: x\r\n\r\n")
    assert len(list_caught(tmp_path)) == len(kept) + 1
    again.process.terminate()
    assert again.process.wait(60) == 0


def test_a_real_sender_on_twenty_connections_loses_nothing(catcher: Catcher) -> None:
    source = shutil.which("smtp-source") or "/usr/sbin/smtp-source"
    if not Path(source).exists():
        if os.environ.get("POSTROOM_TEST_REQUIRE_PEERS") == "1":
            pytest.fail("smtp-source (package postfix) is missing: run make peers")
        pytest.skip("smtp-source (package postfix) is not installed: make peers")
    address = f"127.0.0.1:{catcher.port}"
    subprocess.run(
        [source, "-s", "20", "-m", "3000", "-l", "4000", "-f", "a@a.test", "-t", "b@b.test", address],
        check=True,
        timeout=110,
    )
    caught = list_caught(catcher.folder)
    assert len(caught) == 3000
    assert len({mail.id for mail in caught}) == 3000
