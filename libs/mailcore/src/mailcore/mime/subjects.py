"""What a subject is about, without what mailers put before it: `AW: [list] Re[2]: Offer (fwd)` is `Offer` (RFC 5256 §2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_SUBJECT = 998
_REPLIES = ("re", "aw", "sv", "vs", "antw", "ref", "rif", "ynt", "odp", "vb", "atb", "回复", "回覆", "答复", "答覆")
_FORWARDS = ("fw", "fwd", "tr", "wg", "ant", "转发", "轉寄", "轉發")
_LEADER = re.compile(
    rf"\s*(?:(?P<reply>{'|'.join(_REPLIES)})|{'|'.join(_FORWARDS)})\s{{0,3}}(?:\[\d{{1,4}}\]|\(\d{{1,4}}\))?\s{{0,3}}[:：]",
    re.IGNORECASE,
)
_BLOB = re.compile(r"\s*\[[^\[\]]{0,60}\](?=.*\S)")
_TRAILER = re.compile(r"\s*\(fwd?\)\s*\Z", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Base:
    text: str
    """Without leaders, one blank between words; empty where nothing is left."""
    is_reply: bool
    """It says that it answers something."""


def base(subject: str | None) -> Base:
    text = (subject or "")[:_MAX_SUBJECT]
    is_reply = False
    at = 0
    while (match := _LEADER.match(text, at) or _BLOB.match(text, at)) is not None:
        is_reply = is_reply or match.groupdict().get("reply") is not None
        at = match.end()
    text = text[at:]
    while (match := _TRAILER.search(text)) is not None:
        text = text[: match.start()]
    return Base(_BLANKS.sub(" ", text).strip(), is_reply)
