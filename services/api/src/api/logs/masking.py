"""Bodies as the log keeps them: without secrets, without the contents of attachments, and not too long.

What is left out: values of fields named like a secret, API keys and signing secrets wherever they stand, sign-in tokens, the
signatures of signed links. A body that is no JSON is not kept at all: nothing could be found in it by name.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

CAPTURE_BYTES = 256 * 1024
"""Of a larger body only its size is kept."""
MAX_DEPTH = 24
MAX_ITEMS = 1_000
MASK = "***"

_SECRET = re.compile(
    r"passw|secret|token|authorization|cookie|api[_-]?key|private[_-]?key|credential|jwt|csrf|otp|signature", re.I
)
# anybody's text comes by here, between requests: possessive, and begun once a run of characters, so that it is read once
_VALUES = re.compile(
    r"\bre_[0-9A-Za-z_]{16,}"  # API keys, also of other makers
    r"|whsec_[0-9A-Za-z+/=]{8,}"
    r"|(?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{8,}+\.[0-9A-Za-z_-]++\.[0-9A-Za-z_-]+"  # JWT
    r"|(?<=://)[^/@:\s\"]*+:[^/@\s\"]++(?=@)"
    r"|(?<=signature=)[^&\"\s\\]+|(?<=token=)[^&\"\s\\]+"
)


def mask(text: str) -> str:
    return _VALUES.sub(MASK, text)


def kept(raw: bytes, limit: int) -> str | None:
    """JSON text of at most about `limit` characters; None for an empty body and for what is no JSON."""
    if not raw:
        return None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    text = orjson.dumps(_Walk(limit).of(value)).decode()
    if len(text) <= limit:
        return mask(text)
    # of a longer one only the beginning is kept, and only there secrets are looked for; no secret goes past a quote, so that none
    # is cut in two, where nobody would know it
    head, quote, _ = text[:limit].rpartition('"')
    return _cut(mask(head + quote or text[:limit]), limit, len(raw))


def too_large(octets: int) -> str:
    return orjson.dumps({"truncated": True, "bytes": octets}).decode()


def _cut(text: str, limit: int, octets: int) -> str:
    return orjson.dumps({"truncated": True, "bytes": octets, "begins": text[: limit // 2]}).decode()


class _Walk:
    """Through one value, as far as the kept text can reach: a quarter of a megabyte in small pieces takes no longer than one of
    `limit`."""

    def __init__(self, limit: int) -> None:
        self._longest = limit // 2
        self._left = limit
        """Characters, about; what comes when there are none is not looked at."""

    def of(self, value: Any, depth: int = 0, *, attachment: bool = False) -> Any:
        if isinstance(value, str):
            self._left -= min(len(value), self._longest) + 3
            return shorten(value, self._longest)
        self._left -= 2
        if not isinstance(value, dict | list):
            return value
        if depth >= MAX_DEPTH:
            return "…"
        return self._list(value, depth, attachment) if isinstance(value, list) else self._dict(value, depth, attachment)

    def _list(self, value: list[Any], depth: int, attachment: bool) -> list[Any]:
        shown: list[Any] = []
        for item in value[:MAX_ITEMS]:
            if self._left < 0:
                break
            shown.append(self.of(item, depth + 1, attachment=attachment))
        return shown if len(shown) == len(value) else [*shown, f"… ({len(value)} items)"]

    def _dict(self, value: dict[str, Any], depth: int, attachment: bool) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, item in value.items():
            if self._left < 0:
                out["…"] = f"({len(value)} fields)"
                break
            shown = shorten(name, self._longest)
            self._left -= len(shown) + 4
            if attachment and name == "content":
                out[shown] = _size(item)
            elif item is not None and not isinstance(item, bool) and _SECRET.search(shown):
                out[shown] = MASK
            else:
                out[shown] = self.of(item, depth + 1, attachment=name == "attachments")
        return out


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _size(content: Any) -> str:
    """Base64 in a text, or bytes as an array of numbers (resend.md §4.3)."""
    if isinstance(content, str):
        return f"({len(content) * 3 // 4} bytes)"
    if isinstance(content, dict):
        content = content.get("data")
    return f"({len(content)} bytes)" if isinstance(content, list) else MASK
