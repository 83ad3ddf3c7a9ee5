"""Opens and clicks: what is put into the html of a mail, and the tokens it leads to.

1. a token says all that its address needs to answer: organization, email, and of a link its target, under an HMAC-SHA256 over
   them. A redirect asks no database; who alters a character gets nothing
2. `track` replaces the addresses of the html's links and adds one image. Every other character stays. It is a pure function: the
   same mail gets the same bytes at every attempt
3. one-click unsubscribe (RFC 8058): a token over organization, list and recipient, and the two header fields with it

    token   base64url without padding of  version (1) | organization (16) | email (16) | HMAC (16) | rest
    rest    open: nothing; click: the target; unsubscribe: list (16) | recipient

What may be a target is asked twice, when a link is replaced and when it is followed (`target`): an http or https URL with a host
and nothing in it that a browser or a header could read in another way.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from mailcore.mime.links import scan

MAX_TARGET = 1400
"""Octets of a URL; a longer one stays as it is. With its token it remains under the 2,048 that proxies and mail readers pass on."""
MAX_LINKS = 500
"""Of one mail; the others stay as they are."""
MAX_HTML = 2_000_000
"""Characters; a longer html is sent as it is."""
ALL = UUID(int=0)
"""The list that stands for all broadcast mail of an organization."""

OPEN, CLICK, UNSUBSCRIBE = "/track/open/", "/track/click/", "/unsubscribe"
"""Paths, each behind a tracking host; that of unsubscribe takes `?token=`."""

_VERSION = b"\x01"
_MAC = 16
_HEAD = 1 + 16 + 16 + _MAC
_MAX_TOKEN = (_HEAD + MAX_TARGET) * 4 // 3 + 4
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+\Z")
# no user and password, no backslash, no blank, no control: RFC 3986 §2 and less
_TARGET = re.compile(
    r"https?://(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?\Z",
    re.IGNORECASE,
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_LEFT_ALONE = re.compile(r"\{\{|unsubscribe|/track/(?:click|open)/", re.IGNORECASE)
"""In a URL: a placeholder somebody else fills in, a way out of a list, and what is tracked already."""


@dataclass(frozen=True, slots=True)
class Tracking:
    """How a domain's mail is tracked."""

    base: str
    """`https://links.example.com`: scheme and host, no slash at its end."""
    key: bytes
    opens: bool
    clicks: bool


@dataclass(frozen=True, slots=True)
class Tracked:
    """What the token of an image or a link says."""

    org_id: UUID
    email_id: UUID
    url: str | None = None
    """Of a link."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the token of an unsubscribe link says."""

    org_id: UUID
    email_id: UUID
    """The mail it stood in; ALL when it was made before there was one."""
    list_id: UUID
    """A topic or list, or ALL."""
    recipient: str
    """In lower case."""


# ---- the mail --------------------------------------------------------------------------------------------------------


def track(html: str, tracking: Tracking, org_id: UUID, email_id: UUID, *, leave: Collection[str] = ()) -> str:
    """The html with its links and its image. `leave`: URLs that stay, such as those of List-Unsubscribe."""
    if not html or len(html) > MAX_HTML or not (tracking.opens or tracking.clicks):
        return html
    scanned = scan(html, most=MAX_LINKS if tracking.clicks else 0)
    changes: list[tuple[int, int, str]] = []
    for link in scanned.links:
        url = None if _LEFT_ALONE.search(link.url) or link.url in leave else target(link.url)
        if url is not None:
            changes.append((link.start, link.end, click_url(tracking, org_id, email_id, url)))
    if tracking.opens:
        image = f'<img src="{open_url(tracking, org_id, email_id)}" width="1" height="1" alt="" style="border:0">'
        changes.append((scanned.end, scanned.end, image))
    pieces: list[str] = []
    at = 0
    for start, end, text in sorted(changes):
        pieces += (html[at:start], text)
        at = end
    return "".join((*pieces, html[at:]))


def target(url: str) -> str | None:
    """The URL as it may stand in a Location field, or None: it is no plain http or https URL, or too long."""
    if not url.isascii():
        # what a browser does with them (RFC 3987 §3.1); those of a host become A-labels there, so it stays as it is
        try:
            url = _NOT_ASCII.sub(lambda match: quote(match[0], safe=""), url)
        except UnicodeEncodeError:  # a lone surrogate
            return None
    return url if len(url) <= MAX_TARGET and _TARGET.match(url) else None


# ---- tokens ----------------------------------------------------------------------------------------------------------


def open_url(tracking: Tracking, org_id: UUID, email_id: UUID) -> str:
    return f"{tracking.base}{OPEN}{_token(tracking.key, b'open', org_id, email_id)}"


def click_url(tracking: Tracking, org_id: UUID, email_id: UUID, url: str) -> str:
    """`url`: as `target` gives it."""
    return f"{tracking.base}{CLICK}{_token(tracking.key, b'click', org_id, email_id, url.encode())}"


def read_open(keys: Sequence[bytes], token: str) -> Tracked | None:
    """None: not ours, altered, or of another kind. `keys`: the one in use, then older ones."""
    found = _read(keys, b"open", token)
    return Tracked(*found[:2]) if found and not found[2] else None


def read_click(keys: Sequence[bytes], token: str) -> Tracked | None:
    found = _read(keys, b"click", token)
    if found is None:
        return None
    url = target(found[2].decode("utf-8", "replace"))
    return Tracked(found[0], found[1], url) if url is not None else None


def unsubscribe_token(key: bytes, org_id: UUID, recipient: str, *, list_id: UUID = ALL, email_id: UUID = ALL) -> str:
    rest = list_id.bytes + recipient.encode().lower()  # ASCII letters alone, as lists of addresses compare them
    return _token(key, b"unsubscribe", org_id, email_id, rest)


def read_unsubscribe(keys: Sequence[bytes], token: str) -> Subscription | None:
    found = _read(keys, b"unsubscribe", token)
    if found is None or len(found[2]) <= 16:
        return None
    org_id, email_id, rest = found
    return Subscription(org_id, email_id, UUID(bytes=rest[:16]), rest[16:].decode("utf-8", "replace"))


def unsubscribe_headers(base: str, token: str) -> Mapping[str, str]:
    """The header fields of one-click unsubscribe (RFC 8058 §3.1, RFC 2369 §3.2). Our DKIM signatures cover both (§4)."""
    return {
        "List-Unsubscribe": f"<{base}{UNSUBSCRIBE}?token={token}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def _token(key: bytes, kind: bytes, org_id: UUID, email_id: UUID, rest: bytes = b"") -> str:
    ids = _VERSION + org_id.bytes + email_id.bytes
    return base64.urlsafe_b64encode(b"".join((ids, _mac(key, kind, ids, rest), rest))).rstrip(b"=").decode()


def _mac(key: bytes, kind: bytes, ids: bytes, rest: bytes) -> bytes:
    # 128 bits of it (RFC 2104 §5); the kind ends with a NUL and the ids have one length, so no two texts are one
    return hmac.digest(key, b"%b\0%b%b" % (kind, ids, rest), "sha256")[:_MAC]


def _read(keys: Sequence[bytes], kind: bytes, token: str) -> tuple[UUID, UUID, bytes] | None:
    if len(token) > _MAX_TOKEN or len(token) % 4 == 1 or not _ALPHABET.match(token):
        return None
    octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    # the last character may hold bits that stand for nothing: one token has one spelling
    if octets[:1] != _VERSION or base64.urlsafe_b64encode(octets).rstrip(b"=").decode() != token:
        return None
    ids, mac, rest = octets[:33], octets[33:_HEAD], octets[_HEAD:]
    for key in keys:
        if hmac.compare_digest(_mac(key, kind, ids, rest), mac):
            return UUID(bytes=ids[1:17]), UUID(bytes=ids[17:33]), rest
    return None
