"""Replies on the wire (RFC 5321 §4.2, RFC 2034), the ones said often, and the one place where MailError becomes SMTP."""

from __future__ import annotations

from functools import lru_cache

from mailcore.kit.errors import MailError
from mailcore.kit.log import logger
from mailcore.smtp.reply import Reply

log = logger(__name__)

OK = Reply(250, "Ok", "2.0.0")
BYE = Reply(221, "Bye", "2.0.0")
BAD_SEQUENCE = Reply(503, "Bad sequence of commands", "5.5.1")
NOT_A_COMMAND = Reply(500, "This is not a command", "5.5.2")
TOO_LONG = Reply(500, "Line too long", "5.5.2")
BARE_LF = Reply(500, "A command ends with CRLF and holds no other CR, LF or NUL", "5.5.2")
NOT_UTF8 = Reply(500, "A command is ASCII, or UTF-8 in an address", "5.5.2")
NOT_HTTP = Reply(421, "This is SMTP, not HTTP", "4.7.0")
TOO_MUCH_JUNK = Reply(421, "Too many commands that bring no mail, closing the connection", "4.7.0")
TOO_SLOW = Reply(421, "Timeout, closing the connection", "4.4.2")
TOO_MANY_ERRORS = Reply(421, "Too many errors, closing the connection", "4.7.0")
TOO_MANY_CONNECTIONS = Reply(421, "Too many connections, try again later", "4.7.0")
SHUTTING_DOWN = Reply(421, "Service is restarting, try again in a moment", "4.3.2")
TOO_BIG = Reply(552, "The message is larger than this server takes", "5.3.4")
TOO_MANY_RECIPIENTS = Reply(452, "Too many recipients, send the others in another transaction", "4.5.3")
NO_MEMORY = Reply(452, "Too much mail is coming in at once, try again later", "4.3.1")
NO_ROOM = Reply(452, "There is no room for the message just now, try again later", "4.3.1")
NO_SUCH_ADDRESS = Reply(550, "There is no such address here", "5.1.1")
TOO_MANY_UNKNOWN = Reply(421, "Too many recipients who are not here, try again later", "4.7.0")
TOO_MANY_DIFFERENT = Reply(450, "Too many different recipients from your address, try again later", "4.7.1")
TOO_MUCH = Reply(450, "Too much mail in a short time, try again later", "4.7.1")
NO_RELAY = Reply(550, "Relay access denied: this server takes no mail for that address", "5.7.1")


def syntax(form: str) -> Reply:
    return Reply(501, f"Syntax: {form}", "5.5.4")


def from_error(error: Exception) -> Reply:
    """What is unknown is temporary: the peer keeps the mail and tries again."""
    if isinstance(error, MailError):
        return Reply(error.code, error.public, error.enhanced)
    log.error("unexpected error", exc_info=error)
    return Reply(451, "Something went wrong here, try again later", "4.3.0")


@lru_cache(maxsize=512)
def octets(reply: Reply) -> bytes:
    """ASCII, one line for each of the text's, the enhanced code before each."""
    lines = reply.text.encode("ascii", "backslashreplace").decode("ascii").splitlines() or [""]
    code = f"{reply.enhanced} " if reply.enhanced else ""
    marks = ["-"] * (len(lines) - 1) + [" "]
    return "".join([f"{reply.code}{mark}{code}{line}\r\n" for mark, line in zip(marks, lines, strict=True)]).encode()
