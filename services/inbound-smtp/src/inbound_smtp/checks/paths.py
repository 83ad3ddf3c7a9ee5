"""The arguments of MAIL and RCPT (RFC 5321 §4.1.1.2, §4.1.1.3, §4.1.2): strict about where mail goes, lenient about whence it came.

Of a recipient every form is refused that asks us to pass mail on: `a%b@ours`, `b!a@ours`, `"a@b"@ours`, `@ours:a@b`, `a@[ip]`, and
names without a domain, but for `postmaster`, who is this server's own. A sender's address is only kept and answered to, so what a
resolver would not like may stand in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from inbound_smtp.replies import NO_RELAY, syntax
from mailcore.kit.errors import Invalid
from mailcore.smtp.address import Address, parse_address
from mailcore.smtp.dsn import Notify, Ret, parse_envid, parse_notify, parse_orcpt, parse_ret
from mailcore.smtp.reply import Reply

MAIL_FORM = "MAIL FROM:<address> [SIZE=n] [BODY=7BIT|8BITMIME] [SMTPUTF8] [RET=FULL|HDRS] [ENVID=text]"
RCPT_FORM = "RCPT TO:<address> [NOTIFY=list] [ORCPT=rfc822;address]"

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?\Z")
_LENIENT = re.compile(r"[^\x00-\x20\x7f<>@]{1,64}@(?:[A-Za-z0-9_.-]{1,253}|\[[A-Za-z0-9:.]{1,100}\])\Z")
_ROUTED = re.compile(r"[%!@:]")
"""In a local part: somebody's way of naming a further hop."""
_FOREIGN = re.compile(r"[%!:\[]|@.*@|\A[^@]*\Z|\"\Z")
"""In a path that is no address: a further hop, a literal, no domain, all of it in quotes."""


class Refusal(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Mail(NamedTuple):
    sender: str
    """Empty for `<>`."""
    size: int | None
    smtputf8: bool
    body_8bit: bool
    ret: Ret | None = None
    envid: str | None = None
    requiretls: bool = False


class Destination(NamedTuple):
    """A recipient anywhere, and what the sender wants to be told of him (RFC 3461 §4)."""

    address: Address
    notify: frozenset[Notify] = frozenset()
    orcpt: tuple[str, str] | None = None
    """Type and address."""


class Path(NamedTuple):
    text: str
    bracketed: bool
    parameters: list[str]


def mail(
    argument: str, *, smtputf8: bool = True, auth: bool = False, dsn: bool = False, requiretls: bool = False
) -> Mail:
    """Of `FROM:<a@b> SIZE=1 …`; what EHLO did not offer, of SMTPUTF8, AUTH, DSN and REQUIRETLS, is no parameter. Raises Refusal."""
    path = _split(argument, "FROM:", MAIL_FORM)
    if not path.bracketed:
        raise Refusal(syntax(MAIL_FORM))
    size, utf8, body = None, False, "7BIT"
    ret, envid, strict = None, None, False
    seen: set[str] = set()
    for text in path.parameters:
        name, value = _parameter(text, seen, MAIL_FORM)
        if name == "SIZE" and value is not None and value.isascii() and value.isdigit() and len(value) <= 20:
            size = int(value)
        elif name == "BODY" and value is not None and value.upper() in ("7BIT", "8BITMIME"):
            body = value.upper()
        elif name == "SMTPUTF8" and value is None and smtputf8:
            utf8 = True
        elif name == "AUTH" and value is not None and auth:
            pass  # RFC 4954 §5: who wrote it first, says the client; the key says who answers for it
        elif name == "RET" and value is not None and dsn:
            ret = _asked(parse_ret, value)
        elif name == "ENVID" and value is not None and dsn:
            envid = _asked(parse_envid, value)
        elif name == "REQUIRETLS" and value is None and requiretls:
            strict = True
        elif name in ("SIZE", "BODY") or (name == "SMTPUTF8" and smtputf8) or (name == "REQUIRETLS" and requiretls):
            raise Refusal(syntax(MAIL_FORM))
        else:
            # RFC 5321 §4.1.1.11
            raise Refusal(Reply(555, f"Parameter {name[:40]} is not supported", "5.5.4"))
    return Mail(_sender(path.text, utf8), size, utf8, body == "8BITMIME", ret, envid, strict)


def recipient(argument: str, *, smtputf8: bool, hostname: str) -> tuple[Destination, bool]:
    """Of `TO:<a@b> …`: the recipient, and whether its brackets were there (without them it may still be an attempt to relay).

    `<postmaster>` is that of `hostname`. Raises Refusal.
    """
    path = _split(argument, "TO:", RCPT_FORM)
    notify, orcpt = _wishes(path)
    if not path.text:
        raise Refusal(Reply(501, "A recipient is missing: <> is only a sender", "5.1.3"))
    if path.text.lower() == "postmaster":
        return Destination(
            Address("postmaster", hostname), notify, orcpt
        ), path.bracketed  # RFC 5321 §4.5.1: it MUST be taken
    try:
        address = parse_address(path.text, allow_quoted=True)
    except Invalid as error:
        # `"a%b"@ours`, `@ours:a@b`, `a@[1.2.3.4]`, `a%b`, `a`: whatever it is, it is no address of ours
        if _FOREIGN.search(path.text):
            raise Refusal(NO_RELAY) from error
        raise Refusal(Reply(553, error.public, "5.1.3")) from error
    if _ROUTED.search(address.local):
        raise Refusal(NO_RELAY)
    if address.smtputf8 and not smtputf8:
        raise Refusal(_NEEDS_SMTPUTF8)
    return Destination(address, notify, orcpt), path.bracketed


def destination(argument: str) -> Destination:
    """Of `TO:<a@b> NOTIFY=… ORCPT=…` by somebody who may send anywhere. Raises Refusal."""
    path = _split(argument, "TO:", RCPT_FORM)
    if not path.bracketed:
        raise Refusal(syntax(RCPT_FORM))
    notify, orcpt = _wishes(path)
    try:
        address = parse_address(path.text)
    except Invalid as error:
        raise Refusal(Reply(553, error.public, "5.1.3")) from error
    if address.smtputf8:
        raise Refusal(Reply(553, "An address outside ASCII is not supported", "5.6.7"))
    return Destination(address, notify, orcpt)


def _wishes(path: Path) -> tuple[frozenset[Notify], tuple[str, str] | None]:
    """NOTIFY and ORCPT (RFC 3461 §4.1, §4.2)."""
    notify: frozenset[Notify] = frozenset()
    orcpt = None
    seen: set[str] = set()
    for text in path.parameters:
        name, value = _parameter(text, seen, RCPT_FORM)
        if name == "NOTIFY" and value is not None:
            notify = _asked(parse_notify, value)
        elif name == "ORCPT" and value is not None:
            orcpt = _asked(parse_orcpt, value)
        else:
            raise Refusal(Reply(555, f"Parameter {name[:40]} is not supported", "5.5.4"))
    return notify, orcpt


T = TypeVar("T")


def _asked(parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except Invalid as error:
        raise Refusal(Reply(501, error.public, "5.5.4")) from error


# RFC 6531 §3.5
_NEEDS_SMTPUTF8 = Reply(553, "An address outside ASCII needs SMTPUTF8 on the MAIL command", "5.6.7")


def _sender(text: str, smtputf8: bool) -> str:
    if not text:
        return ""
    try:
        sender = str(parse_address(text, allow_quoted=True, allow_dotless=True))
    except Invalid as error:
        if not _LENIENT.match(text):
            raise Refusal(Reply(553, error.public, "5.1.7")) from error
        sender = text
    if not sender.isascii() and not smtputf8:
        raise Refusal(_NEEDS_SMTPUTF8)
    return sender


def _split(argument: str, keyword: str, form: str) -> Path:
    if argument[: len(keyword)].upper() != keyword:
        raise Refusal(syntax(form))
    # a blank after the colon is against RFC 5321 §3.3 and common
    rest = argument[len(keyword) :].strip(" ")
    if not rest.startswith("<"):
        text, _, parameters = rest.partition(" ")
        return Path(text, False, parameters.split())
    end = _end_of_path(rest)
    after = rest[end + 1 :]
    if end < 0 or (after and not after.startswith(" ")):
        raise Refusal(syntax(form))
    return Path(rest[1:end].strip(" "), True, after.split())


def _end_of_path(text: str) -> int:
    """Where the `>` is that is not inside quotes; -1: nowhere."""
    quoted = False
    if '"' not in text:
        return text.find(">")
    at = 1
    while at < len(text):
        character = text[at]
        if quoted and character == "\\":
            at += 1
        elif character == '"':
            quoted = not quoted
        elif character == ">" and not quoted:
            return at
        at += 1
    return -1


def _parameter(text: str, seen: set[str], form: str) -> tuple[str, str | None]:
    match = _PARAMETER.match(text)
    if match is None or match[1].upper() in seen:
        raise Refusal(syntax(form))
    seen.add(match[1].upper())
    return match[1].upper(), match[2]
