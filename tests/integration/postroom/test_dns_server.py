"""The lab's DNS as a process, asked over UDP and TCP."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from mailcore.dns.lab import put_zone
from peers import free_port
from stack import wait_for


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "postroom.local.dns", "--listen", f"127.0.0.1:{port}", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_for(listens, "the DNS listens")
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_a_long_answer_comes_over_tcp_after_truncation(port: int, tmp_path: Path) -> None:
    put_zone(tmp_path, "example.test", [{"name": "@", "type": "TXT", "value": "x" * 5000}])
    query = dns.message.make_query("example.test", "TXT")
    assert dns.query.udp(query, "127.0.0.1", port=port, timeout=60).flags & dns.flags.TC
    answer, over_tcp = dns.query.udp_with_fallback(query, "127.0.0.1", port=port, timeout=60)
    assert over_tcp
    assert b"".join(answer.answer[0][0].strings) == b"x" * 5000


def test_a_change_counts_at_the_next_question(port: int, tmp_path: Path) -> None:
    query = dns.message.make_query("example.test", "A")
    assert dns.query.udp(query, "127.0.0.1", port=port, timeout=60).rcode() == dns.rcode.REFUSED
    for last in range(1, 30):
        put_zone(tmp_path, "example.test", [{"name": "@", "type": "A", "value": f"192.0.2.{last}"}])
        answer = dns.query.udp(query, "127.0.0.1", port=port, timeout=60)
        assert answer.answer[0][0].address == f"192.0.2.{last}"


def test_one_connection_carries_several_questions_and_survives_garbage(port: int, tmp_path: Path) -> None:
    put_zone(tmp_path, "example.test", [{"name": "@", "type": "A", "value": "192.0.2.1"}])
    query = dns.message.make_query("example.test", "A").to_wire()
    with socket.create_connection(("127.0.0.1", port), 60) as peer:
        garbage = b"\x00\x07garbage"
        framed = len(query).to_bytes(2, "big") + query
        peer.sendall(framed + garbage + framed)
        received = b""
        while received.count(b"\xc0\x00\x02\x01") < 2:
            chunk = peer.recv(4096)
            assert chunk
            received += chunk


def test_garbage_over_udp_does_not_end_it(port: int, tmp_path: Path) -> None:
    put_zone(tmp_path, "example.test", [{"name": "@", "type": "A", "value": "192.0.2.1"}])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        for length in range(40):
            peer.sendto(b"\x01" * length, ("127.0.0.1", port))
    query = dns.message.make_query("example.test", "A")
    assert dns.query.udp(query, "127.0.0.1", port=port, timeout=60).answer
