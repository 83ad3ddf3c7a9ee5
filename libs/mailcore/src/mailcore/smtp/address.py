"""Addresses as people and programs write them: `a@b.c` and `Name <a@b.c>` (RFC 5321 §4.1.2, RFC 5322 §3.4, RFC 6531).

1. refuse what no address holds: control characters, line ends of any alphabet, lone surrogates
2. plain ASCII goes through one regular expression
3. the rest: quoted local parts, non-ASCII local parts, internationalized domains

Refused on purpose, because each has been used to get past a check: comments, source routes, groups, domain literals,
blanks around `@` or inside `< >`, encoded words: who decodes them first reads `=?utf-8?q?ceo=40bank.test=3e?=@mine.test` as the
bank's (RFC 2047 §5).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid

MAX_LOCAL = 64
MAX_ADDRESS = 254
"""Octets (RFC 5321 §4.5.3.1.1 and .3: a path is 256 with its `< >`)."""
MAX_MAILBOX = 2_000
"""Characters of `Name <address>`."""

FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Never in an address or a display name: C0, DEL, C1, the two Unicode line ends, lone surrogates."""

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_DOT_ATOM = rf"{_ATEXT}+(?:\.{_ATEXT}+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = rf"({_DOT_ATOM})@((?:{_LABEL}\.)+[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?)"
_PLAIN = re.compile(rf"{_ADDRESS}\Z")
_PLAIN_MAILBOX = re.compile(rf"({_ATEXT}+(?: {_ATEXT}+)*) <{_ADDRESS}>\Z")
_DOT_ATOM_ONLY = re.compile(rf"{_DOT_ATOM}\Z")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ATOMS = re.compile(rf"{_ATEXT}+(?: {_ATEXT}+)*\Z")
_ENCODED_WORD = re.compile(r"=\?.*\?[bq]\?.*\?=", re.IGNORECASE)
_FULL_STOPS = (".", "\u3002", "\uff0e", "\uff61")


@dataclass(frozen=True, slots=True)
class Address:
    local: str
    """As written, case kept (RFC 5321 §2.4); a quoted local part with its quotes, and only where it needs them."""
    domain: str
    """Lower-case A-labels."""

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def ascii(self) -> str:
        """What goes on the wire: ASCII, unless `smtputf8`."""
        return f"{self.local}@{self.domain}"

    @property
    def smtputf8(self) -> bool:
        """Only a peer with SMTPUTF8 takes it (RFC 6531): the local part is not ASCII."""
        return not self.local.isascii()


@dataclass(frozen=True, slots=True)
class Mailbox:
    name: str
    """Display name without quotes; empty when there is none."""
    address: Address

    def __str__(self) -> str:
        if not self.name:
            return str(self.address)
        return f"{self.name if _ATOMS.match(self.name) else quoted(self.name)} <{self.address}>"


def folded(address: Address) -> str:
    """As addresses here are compared: local parts whatever their case and, beyond ASCII, their form (NFKC)."""
    local = address.local
    if not local.isascii():
        local = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", local).casefold())
    return f"{local.lower()}@{address.domain}"


def parse_address(text: str, *, allow_quoted: bool = False, allow_dotless: bool = False) -> Address:
    """A bare addr-spec. Raises Invalid.

    `allow_quoted` takes `"a b"@c.d`, written back with no more quoting than it needs: `"ab"@c.d` is `ab@c.d`.
    `allow_dotless` takes `a@localhost`.
    """
    match = _PLAIN.match(text) if len(text) <= MAX_ADDRESS else None
    if match is not None:
        local, domain = match.groups()
        if len(local) <= MAX_LOCAL and "--" not in domain and "=?" not in local:
            return Address(local, domain.lower())
    return _parse_slowly(text, allow_quoted, allow_dotless)


def parse_mailbox(text: str) -> Mailbox:
    """`a@b.c`, `<a@b.c>`, `Name <a@b.c>` or `"Na, me" <a@b.c>`. Raises Invalid.

    A name without quotes is taken as it stands, with its dots, commas and brackets, and is quoted when it is written:
    in this form nothing else can be meant. Only what may be a list of addresses is refused, so that none gets lost in
    a name.
    """
    match = _PLAIN_MAILBOX.match(text) if len(text) <= MAX_ADDRESS else None
    if match is not None:
        name, local, domain = match.groups()
        if len(local) <= MAX_LOCAL and "--" not in domain and "=?" not in local:
            return Mailbox(name, Address(local, domain.lower()))
    if not text.endswith(">") and "<" not in text:
        return Mailbox("", parse_address(text.strip(" ")))
    if len(text) > MAX_MAILBOX:
        raise Invalid(f"An address with its name has at most {MAX_MAILBOX} characters.")
    _refuse_forbidden(text)
    before, bracket, inside = text.strip(" ").rpartition("<")
    if not bracket or not inside.endswith(">"):
        raise Invalid(_FORM)
    return Mailbox(_display_name(before.strip(" ")), parse_address(inside[:-1]))


def quoted(text: str) -> str:
    """As a quoted-string (RFC 5322 §3.2.4)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_FORM = "An address has the form `email@example.com` or `Name <email@example.com>`."


def _display_name(text: str) -> str:
    if text.startswith('"'):
        match = _QUOTED.fullmatch(text)
        if match is None:
            raise Invalid(_FORM)
        return re.sub(r"\\(.)", r"\1", match[1])
    if any(c in text for c in '<>"\\') or ("@" in text and ("," in text or ";" in text)):
        raise Invalid(_FORM)
    return text


def _parse_slowly(text: str, allow_quoted: bool, allow_dotless: bool) -> Address:
    # a U-label shrinks or grows when it is encoded: the limits are looked at again below
    if len(text) > MAX_MAILBOX:
        raise Invalid(f"An address has at most {MAX_ADDRESS} octets.")
    _refuse_forbidden(text)
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise Invalid(_FORM)
    if _ENCODED_WORD.search(local):
        raise Invalid("The part before `@` must not be an encoded word (RFC 2047 section 5).")
    if domain.startswith("["):
        raise Invalid("Mail to an IP address is not accepted; use a domain name.")
    if domain.endswith(_FULL_STOPS):
        raise Invalid(_FORM)
    address = Address(_local_part(local, allow_quoted), normalize_domain(domain))
    if "." not in address.domain and not allow_dotless:
        raise Invalid(f"{domain[:80]!a} is not a full domain name.")
    if len(address.local.encode()) > MAX_LOCAL:
        raise Invalid(f"The part before `@` has at most {MAX_LOCAL} octets.")
    if len(str(address).encode()) > MAX_ADDRESS:
        raise Invalid(f"An address has at most {MAX_ADDRESS} octets.")
    return address


def _local_part(text: str, allow_quoted: bool) -> str:
    if text.startswith('"'):
        match = _QUOTED.fullmatch(text)
        if match is None or not allow_quoted:
            raise Invalid(_FORM)
        content = re.sub(r"\\(.)", r"\1", match[1])
        # RFC 5321 §4.1.2: quotes that are not needed do not make another mailbox
        return content if _DOT_ATOM_ONLY.match(content) else quoted(content)
    if _DOT_ATOM_ONLY.match(text):
        return text
    # RFC 6531 §3.3: atext grows by all of UTF-8 beyond ASCII. Blanks and formatting characters stay out: they are only
    # good for addresses that look like others.
    ascii_only = "".join(c if c.isascii() else "a" for c in text)
    if not _DOT_ATOM_ONLY.match(ascii_only) or any(unicodedata.category(c)[0] in "CZ" for c in text):
        raise Invalid(_FORM)
    return text


def _refuse_forbidden(text: str) -> None:
    if FORBIDDEN.search(text):
        raise Invalid("An address must not contain control characters or line breaks.")
