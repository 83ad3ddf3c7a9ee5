"""One mail on its session: its commands, how far it has come, and what was said about it, of which its Outcome is made."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mailcore.smtp.outcome import Line, Outcome, Result
from mailcore.smtp.reply import Reply
from mailcore.transport import content
from mailcore.transport.base import Mail
from mailcore.transport.envelope import Opening
from mailcore.transport.leave import Leave
from mailcore.transport.session import Session
from mailcore.transport.wire import Broken, Heard


class Transaction:
    __slots__ = ("behind", "done", "dot_sent", "leave", "lines", "mail", "opening")

    def __init__(self, mail: Mail, lines: list[Line]) -> None:
        self.mail = mail
        self.lines = lines
        self.opening = Opening("", "")
        self.leave: Leave | None = None
        self.behind = False
        """Its envelope went out behind another mail, and no reply to it was heard yet."""
        self.dot_sent = False
        self.done = False

    def heard(self, heard: Heard) -> None:
        """A reply to it."""
        if len(heard.texts) == 1:
            self.lines.append(Line(heard.at, None, f"{heard.code} {heard.texts[0]}"))
        else:
            self.lines += heard.lines()

    def envelope(self, *, chunking: bool) -> tuple[bytes, int]:
        """What is written before the content, all at once, and the number of replies to it."""
        mail_from, rcpt_to = self.opening
        at = time.time()
        self.lines += (Line(at, mail_from), Line(at, rcpt_to))
        if chunking:
            return f"{mail_from}\r\n{rcpt_to}\r\n".encode(), 2
        self.lines.append(Line(at, "DATA"))
        return f"{mail_from}\r\n{rcpt_to}\r\nDATA\r\n".encode(), 3

    def pieces(self, *, chunking: bool) -> Iterator[bytes]:
        """What is written then; with the last of it the peer has the whole mail."""
        if chunking:
            for piece, last in content.chunks(self.mail.content):
                yield b"BDAT %d%b\r\n%b" % (len(piece), b" LAST" if last else b"", piece)
        else:
            yield from content.stuffed(self.mail.content)
            yield b".\r\n"

    def said_content(self, last: bytes, *, chunking: bool) -> None:
        """All of its pieces were written, with this one as the last."""
        at = time.time()
        if chunking:
            octets = content.octets(self.mail.content)
            self.lines.append(Line(at, f"{last[: last.index(13)].decode()} (of {octets} bytes)"))
        else:
            self.lines.append(Line(at, f"({len(self.mail.content)} bytes of content and the final dot)"))

    def outcome(self, session: Session, result: Result, reply: Reply, rule: str | None) -> Outcome:
        target = session.target
        return Outcome(
            result,
            reply,
            target.host,
            target.ip,
            session.source_ip,
            session.tls,
            rule,
            tuple(self.lines),
            self.dot_sent,
            self.mail.dsn is not None and session.capabilities.dsn and result is Result.DELIVERED,
            session.tls_policy,
            session.sessions,
        )


class Lost(Exception):
    """The session is over and no final dot of `mail` was sent: it may be tried again on another connection."""

    def __init__(self, mail: Mail, broken: Broken, conversation: tuple[Line, ...]) -> None:
        super().__init__(broken.text)
        self.mail = mail
        self.broken = broken
        self.conversation = conversation
