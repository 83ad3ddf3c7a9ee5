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
    text = mask(orjson.dumps(_walk(value, limit)).decode())
    return text if len(text) <= limit else _cut(text, limit)


def too_large(octets: int) -> str:
    return orjson.dumps({"truncated": True, "bytes": octets}).decode()


def _cut(text: str, limit: int) -> str:
    return orjson.dumps({"truncated": True, "characters": len(text), "begins": text[: limit // 2]}).decode()


def _walk(value: Any, limit: int, depth: int = 0, *, attachment: bool = False) -> Any:
    if isinstance(value, str):
        return shorten(value, limit // 2)
    if not isinstance(value, dict | list):
        return value
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, list):
        shown = [_walk(item, limit, depth + 1, attachment=attachment) for item in value[:MAX_ITEMS]]
        return shown if len(value) <= MAX_ITEMS else [*shown, f"… ({len(value)} items)"]
    out: dict[str, Any] = {}
    for name, item in value.items():
        if attachment and name == "content":
            out[name] = _size(item)
        elif item is not None and not isinstance(item, bool) and _SECRET.search(name):
            out[name] = MASK
        else:
            out[name] = _walk(item, limit, depth + 1, attachment=name == "attachments")
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
