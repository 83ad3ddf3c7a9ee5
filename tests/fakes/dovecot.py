"""A private Dovecot on loopback, as root or as an ordinary user: IMAP in clear with STARTTLS, IMAP over TLS, and LMTP where it is
installed."""

from __future__ import annotations

import grp
import imaplib
import os
import pwd
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

BINARY = shutil.which("dovecot", path="/usr/sbin:/usr/bin:/sbin:/bin")
LMTP = Path("/usr/lib/dovecot/lmtp")
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Dovecot:
    imap: int
    imaps: int
    folder: Path
    lmtp: int = 0
    """0: it has no LMTP."""

    def append(self, user: str, raw: bytes, *, folder: str = "INBOX", flags: str = "") -> None:
        with imaplib.IMAP4("127.0.0.1", self.imap) as client:
            client.login(user, PASSWORD)
            status, words = client.append(folder, flags, None, raw)
            assert status == "OK", words

    def flags(self, user: str) -> list[bytes]:
        with imaplib.IMAP4("127.0.0.1", self.imap) as client:
            client.login(user, PASSWORD)
            client.select("INBOX", readonly=True)
            _, lines = client.fetch("1:*", "(FLAGS)")
            return [line for line in lines if isinstance(line, bytes)]

    def expunge_all(self, user: str) -> None:
        with imaplib.IMAP4("127.0.0.1", self.imap) as client:
            client.login(user, PASSWORD)
            client.select("INBOX")
            client.store("1:*", "+FLAGS", "\\Deleted")
            client.expunge()

    def recreate_inbox(self, user: str) -> None:
        """A mailbox of the same name with another UIDVALIDITY."""
        gone = self.folder / "mail" / f"{user}.gone"  # Dovecot may be writing into it just now
        (self.folder / "mail" / user).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def start(
    folder: Path, ports: tuple[int, int, int], users: tuple[str, ...], cert: Path, key: Path
) -> tuple[Dovecot, subprocess.Popen[bytes]]:
    """`cert` and `key` are PEM files for 127.0.0.1."""
    account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    group = grp.getgrgid(account.pw_gid).gr_name
    (folder / "mail").mkdir()
    (folder / "users").write_text("".join(f"{user}:{{PLAIN}}{PASSWORD}\n" for user in users))
    (folder / "dovecot.conf").write_text(
        _CONFIG.format(
            folder=folder, user=account.pw_name, group=group, imap=ports[0], imaps=ports[1], cert=cert, key=key
        )
        + (_LMTP.format(lmtp=ports[2]) if LMTP.exists() else "")
    )
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid)
    process = subprocess.Popen(
        [str(BINARY), "-F", "-c", str(folder / "dovecot.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not _greets(ports[0]):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, "Dovecot does not start"
        time.sleep(0.05)
    return Dovecot(ports[0], ports[1], folder, ports[2] if LMTP.exists() else 0), process


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            return sock.recv(64).startswith(b"* OK")
    except OSError:
        return False


_LMTP = """
protocols = imap lmtp
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp}
  }}
}}
"""
_CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
mail_uid = {user}
mail_gid = {group}
first_valid_uid = 1
mail_home = {folder}/mail/%u
mail_location = maildir:~/Maildir
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = plain login
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={folder}/mail/%u
}}
namespace inbox {{
  inbox = yes
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
service auth {{
  user = {user}
}}
service auth-worker {{
  user = {user}
}}
"""
