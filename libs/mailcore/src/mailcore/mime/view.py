"""A mail as a person may look at it: text, sanitised HTML with its own images, and the URLs that only the caller can make.

What stands for a URL that is made later is a name under `place`, a host that cannot exist and that nobody can guess.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any
from urllib.parse import unquote

from mailcore.mime.parse import EMBEDDED_BYTES, Message
from mailcore.mime.parts import Attachment
from mailcore.mime.plaintext import html_to_text
from mailcore.mime.sanitise import sanitise

_IMAGE = re.compile(r"image/(?:png|jpe?g|gif|webp|avif|bmp|x-icon|vnd\.microsoft\.icon)\Z")
"""Drawn by every browser, and none of them a document."""
INLINE = ("data", "link")
REMOTE = "+remote"
"""Behind an `inline` that is written as one word with the other choice."""
MAX_TEXT = 2_000_000
"""Characters of text."""


@dataclass(frozen=True, slots=True)
class View:
    text: str | None
    """What was written, or the HTML's text where there is no other."""
    html: str | None
    """None: there is none, or it cannot be shown within bounds."""
    headers: dict[str, str]
    place: str = ""
    remote_found: int = 0
    """Images that the HTML names elsewhere, each as often as it does."""
    remote: list[str] = field(default_factory=list)
    """URLs of remote images; in the HTML number n of them is `{place}r{n}/`."""
    files: list[int] = field(default_factory=list)
    """Numbers of attachments that the HTML shows, where they are linked: `{place}a{n}/`."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def filled(self, remote: Callable[[str], str], file: Callable[[int], str]) -> str | None:
        """The HTML with all its URLs."""
        if self.html is None or not self.place:
            return self.html

        def url(match: re.Match[str]) -> str:
            n = int(match[2])
            return escape(remote(self.remote[n]) if match[1] == "r" else file(n))

        return re.sub(re.escape(self.place) + r"([ra])(\d{1,6})/", url, self.html)


def view(message: Message, inline: str, *, remote: bool = False) -> View:
    """`inline`: images of the mail itself as `data` URIs, or as `link`s that the caller makes. `remote`: with images that are
    elsewhere, at URLs that the caller makes, too; else they are left out."""
    bodies = message.bodies()
    headers = message.headers()
    text = bodies.text
    if bodies.html is None:
        return View(_cut(text), None, headers)
    place = f"https://{secrets.token_hex(12)}.invalid/"
    images = _images(message)
    named: dict[str, int] = {}

    def own(cid: str) -> str | None:
        found = images.get(cid) or images.get(unquote(cid))  # RFC 2392 §2: percent-encoded in the URL
        return None if found is None else f"{place}a{found.n}/"

    def elsewhere(url: str) -> str:
        return f"{place}r{named.setdefault(url, len(named))}/"

    clean = sanitise(bodies.html, inline=own, remote=elsewhere if remote else None)
    if clean.html is None or text is None:
        text = html_to_text(bodies.html) if text is None else text
    used = sorted({int(n) for n in re.findall(re.escape(place) + r"a(\d{1,6})/", clean.html or "")})
    html = clean.html
    if inline == "data" and html is not None:
        html, used = _embedded(message, html, place, {one.n: one for one in images.values()}), []
    return View(_cut(text), html, headers, place, clean.remote, list(named), used)


def _images(message: Message) -> dict[str, Attachment]:
    """By Content-ID."""
    return {
        one.content_id: one
        for one in message.summary().attachments
        if one.content_id and _IMAGE.match(one.content_type)
    }


def _embedded(message: Message, html: str, place: str, images: dict[int, Attachment]) -> str:
    """RFC 2397, up to EMBEDDED_BYTES; images beyond that stay empty."""
    room = EMBEDDED_BYTES
    made: dict[int, str] = {}

    def data_uri(match: re.Match[str]) -> str:
        nonlocal room
        n = int(match[1])
        if images[n].size > room:
            return ""
        room -= images[n].size
        if n not in made:  # what is named often is decoded once
            found = message.attachment(n)
            content = base64.b64encode(found[1] if found else b"").decode("ascii")
            made[n] = f"data:{images[n].content_type};base64,{content}"
        return made[n]

    return re.sub(re.escape(place) + r"a(\d{1,6})/", data_uri, html)


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:MAX_TEXT]
