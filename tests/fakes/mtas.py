"""Real mail servers as receiving MX on loopback: Postfix, Exim, OpenSMTPD. Each relays what it takes to a port of the test's.

    with exim(folder, onward=sink.port, pem=...) as port: ...

All take mail for `bob…@peer.test` and for nobody else, offer STARTTLS with the given certificate, and limit a mail to MAX_SIZE
octets. They are started as root only (each changes to users of its own).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers import free_port, peer

MAX_SIZE = 1_000_000
_OPENSMTPD_QUEUE = Path("/var/spool/smtpd")
"""Compiled in: one instance a machine, hence the lock."""


@contextmanager
def postfix(folder: Path, onward: int, pem: Path, *, implicit: bool = False) -> Iterator[int]:
    """SMTPUTF8, CHUNKING, DSN, 8BITMIME, PIPELINING. Takes `böb@`, too. `implicit`: TLS from the first octet on (smtps)."""
    port = free_port()
    etc, queue, data = folder / "etc", folder / "queue", folder / "data"
    for each in (etc, queue, data):
        each.mkdir(parents=True)
    shutil.chown(data, "postfix")
    (etc / "main.cf").write_text(
        f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx0.test
mydestination =
mynetworks =
alias_maps =
relay_domains = peer.test
relay_recipient_maps = regexp:{etc}/recipients
smtpd_relay_restrictions = reject_unauth_destination
transport_maps = inline:{{ {{ peer.test = smtp:[127.0.0.1]:{onward} }} }}
default_transport = error:5.4.4 no external delivery in tests
notify_classes =
message_size_limit = {MAX_SIZE}
smtputf8_enable = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = {pem}
smtpd_discard_ehlo_keywords = silent-discard
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
"""
    )
    (etc / "recipients").write_text("/^b.?.?b/ ok\n")  # two octets between, for böb
    wrapped = " -o smtpd_tls_wrappermode=yes" if implicit else ""
    (etc / "master.cf").write_text(f"127.0.0.1:{port} inet n - n - - smtpd{wrapped}\n" + _POSTFIX_SERVICES)
    command = peer("postfix")
    # not `postfix start-fg`: the master stays a child of ours, to be ended by its id
    subprocess.run([command, "-c", str(etc), "check"], check=True, capture_output=True)
    with _running(["/usr/lib/postfix/sbin/master", "-c", str(etc), "-d"], folder, port):
        yield port


_POSTFIX_SERVICES = "".join(
    f"{name} {kind} {private} - n {wake} {limit} {program}\n"
    for name, kind, private, wake, limit, program in (
        ("pickup", "unix", "n", "60", "1", "pickup"),
        ("cleanup", "unix", "n", "-", "0", "cleanup"),
        ("qmgr", "unix", "n", "300", "1", "qmgr"),
        ("tlsmgr", "unix", "-", "1000?", "1", "tlsmgr"),
        ("rewrite", "unix", "-", "-", "-", "trivial-rewrite"),
        ("bounce", "unix", "-", "-", "0", "bounce"),
        ("defer", "unix", "-", "-", "0", "bounce"),
        ("trace", "unix", "-", "-", "0", "bounce"),
        ("flush", "unix", "n", "1000?", "0", "flush"),
        ("proxymap", "unix", "-", "-", "-", "proxymap"),
        ("smtp", "unix", "-", "-", "-", "smtp"),
        ("error", "unix", "-", "-", "-", "error"),
        ("retry", "unix", "-", "-", "-", "error"),
        ("anvil", "unix", "-", "-", "1", "anvil"),
        ("scache", "unix", "-", "-", "1", "scache"),
        ("postlog", "unix-dgram", "n", "-", "1", "postlogd"),
    )
)


@contextmanager
def exim(folder: Path, onward: int, pem: Path, *, chunking: bool = False) -> Iterator[int]:
    """CHUNKING, DSN, 8BITMIME, PIPELINING; no SMTPUTF8. `chunking`: it sends by BDAT to who takes that."""
    port, program = free_port(), peer("exim4")
    (folder / "spool").mkdir(parents=True)
    (folder / "exim.conf").write_text(
        f"""exim_path = {program}
primary_hostname = mx0.test
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
domainlist here = peer.test
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
message_size_limit = {MAX_SIZE}
tls_advertise_hosts = *
tls_certificate = {folder}/mx.pem
tls_privatekey = {folder}/mx.pem
dsn_advertise_hosts = *
chunking_advertise_hosts = *
smtputf8_advertise_hosts =
queue_only = false
smtp_accept_queue_per_connection = 0
keep_environment =
begin acl
rcpt:
  accept domains = +here
         local_parts = ^bob
  deny message = 5.1.1 no such user here
begin routers
on:
  driver = manualroute
  transport = on
  route_list = * 127.0.0.1 byname
  self = send
begin transports
on:
  driver = smtp
  port = {onward}
  allow_localhost
  hosts_try_fastopen =
  hosts_try_chunking = {"*" if chunking else ""}
begin retry
* * F,2h,15m
"""
    )
    own = folder / "mx.pem"  # it reads the key as its own user
    shutil.copy(pem, own)
    for path in (folder, folder / "spool", own):
        shutil.chown(path, "Debian-exim", "Debian-exim")
    with _running([program, "-C", str(folder / "exim.conf"), "-bdf", "-q30m"], folder, port):
        yield port


@contextmanager
def opensmtpd(folder: Path, onward: int, pem: Path) -> Iterator[int]:
    """DSN, 8BITMIME; neither PIPELINING nor CHUNKING nor SMTPUTF8. Debian 12's offers STARTTLS and cannot do it (OpenSSL 3)."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "smtpd.conf").write_text(
        f"""pki mx0.test cert "{pem}"
pki mx0.test key "{pem}"
smtp max-message-size "{MAX_SIZE}"
listen on 127.0.0.1 port {port} hostname mx0.test tls pki mx0.test
action "on" relay host smtp://127.0.0.1:{onward}
match from any for domain "peer.test" rcpt-to regex "^bob" action "on"
"""
    )
    with Path("/tmp/postroom-opensmtpd.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(_OPENSMTPD_QUEUE, ignore_errors=True)
        _OPENSMTPD_QUEUE.mkdir(parents=True)
        _OPENSMTPD_QUEUE.chmod(0o711)
        program = peer("smtpd")
        try:
            with _running([program, "-d", "-f", str(folder / "smtpd.conf")], folder, port):
                yield port
        finally:
            shutil.rmtree(_OPENSMTPD_QUEUE, ignore_errors=True)


@contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """In a group of its own, which is ended as a whole: each of these programs has children."""
    log = folder / "console"
    with log.open("wb") as console:
        program = subprocess.Popen(command, stdout=console, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if program.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{command[0]} does not listen:\n{log.read_text(errors='replace')}") from None
                time.sleep(0.02)
        yield
    finally:
        program.terminate()
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        program.wait(10)
