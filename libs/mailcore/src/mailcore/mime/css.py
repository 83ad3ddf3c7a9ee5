"""The style attributes of strangers' HTML: by an allow-list, nothing that loads, moves out of its place or runs.

1. comments, at-rules and what does not parse fall away (CSS Syntax 3, by tinycss2)
2. a property that is not on the list falls away
3. so does a declaration with a function that is not on the list, or a URL that the caller has no other for
4. what is left is written anew, from what was parsed: nothing of the original text stays that was not understood
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import tinycss2

MAX_STYLE = 8_000
"""Characters of one attribute; a longer one is left out."""
MAX_PARSED = 200_000
"""Characters that are parsed in one mail; further styles are left out."""

_SIDES = ("top", "right", "bottom", "left")
_CORNERS = ("top-left", "top-right", "bottom-right", "bottom-left")
PROPERTIES = frozenset(
    (
        *("background", "background-color", "background-image", "background-position", "background-repeat"),
        *("background-size", "border", "border-collapse", "border-color", "border-radius", "border-spacing"),
        *("border-style", "border-width", "box-shadow", "box-sizing", "caption-side", "clear", "color", "direction"),
        *("display", "empty-cells", "float", "font", "font-family", "font-size", "font-style", "font-variant"),
        *("font-weight", "height", "letter-spacing", "line-height", "list-style", "list-style-position"),
        *("list-style-type", "margin", "max-height", "max-width", "min-height", "min-width", "opacity", "outline"),
        *("overflow-wrap", "padding", "table-layout", "text-align", "text-decoration", "text-decoration-color"),
        *("text-decoration-line", "text-decoration-style", "text-indent", "text-overflow", "text-transform"),
        *("unicode-bidi", "vertical-align", "visibility", "white-space", "width", "word-break", "word-spacing"),
        *("word-wrap", "align-items", "align-content", "align-self", "justify-content", "flex", "flex-basis"),
        *("flex-direction", "flex-grow", "flex-shrink", "flex-wrap", "gap", "mso-hide"),
        *(f"{of}-{side}" for of in ("margin", "padding", "border") for side in _SIDES),
        *(f"border-{side}-{what}" for side in _SIDES for what in ("color", "style", "width")),
        *(f"border-{corner}-radius" for corner in _CORNERS),
    )
)
_FUNCTIONS = frozenset(
    ("rgb", "rgba", "hsl", "hsla", "calc", "min", "max", "clamp", "linear-gradient", "radial-gradient")
)
_LOADING = ("background", "background-image")
"""Where a URL may stand."""
# neither strings, nor functions, nor escapes, nor comments: what most styles are, and read in a tenth of the time
_PLAIN = re.compile(r"[A-Za-z0-9 \t\r\n:;#%.,!+-]*\Z")
_NAME = re.compile(r"[a-z-]{1,40}\Z")

Url = Callable[[str], "str | None"]
"""A URL to the one that stands in its place; None: it is not loaded."""


class Styles:
    """Of one mail: the same attribute is read once, and there is an end to reading."""

    def __init__(self, url: Url) -> None:
        self._url = url
        self._seen: dict[str, str] = {}
        self._room = MAX_PARSED

    def clean(self, style: str) -> str | None:
        """What is left of it; None where nothing is. Never raises."""
        if len(style) > MAX_STYLE:
            return None
        if style not in self._seen:
            self._seen[style] = self._plain(style) if _PLAIN.match(style) else self._parsed(style)
        return self._seen[style] or None

    def _plain(self, style: str) -> str:
        kept = []
        for declaration in style.split(";"):
            name, colon, value = declaration.partition(":")
            name, value = name.strip().lower(), " ".join(value.split())
            if colon and value and name in PROPERTIES and ":" not in value:
                kept.append(f"{name}:{value}")
        return ";".join(kept)

    def _parsed(self, style: str) -> str:
        self._room -= len(style)
        if self._room < 0:
            return ""
        try:
            found = tinycss2.parse_blocks_contents(style, skip_comments=True, skip_whitespace=True)
        except RecursionError:
            return ""
        kept = []
        for one in found:
            if one.type != "declaration" or one.lower_name not in PROPERTIES or not _NAME.match(one.lower_name):
                continue
            value = self._value(one.value, loading=one.lower_name in _LOADING)
            if value:
                kept.append(f"{one.lower_name}:{value}" + ("!important" if one.important else ""))
        return ";".join(kept)

    def _value(self, tokens: Iterable[Any], *, loading: bool, depth: int = 0) -> str | None:
        """Written anew; None where something in it is not allowed."""
        written = []
        for token in tokens:
            if token.type == "comment":
                continue
            if token.type == "function" and token.lower_name == "url":
                text = "".join(one.value for one in token.arguments if one.type == "string")
                piece = self._loaded(text) if loading else None
            elif token.type == "url":
                piece = self._loaded(token.value) if loading else None
            elif token.type == "function":
                inside = (
                    self._value(token.arguments, loading=False, depth=depth + 1)
                    if token.lower_name in _FUNCTIONS and depth < 5
                    else None
                )
                piece = None if inside is None else f"{token.lower_name}({inside})"
            elif token.type == "() block":
                inside = self._value(token.content, loading=False, depth=depth + 1) if depth < 5 else None
                piece = None if inside is None else f"({inside})"
            elif token.type == "string":
                piece = _string(re.sub(r"[^\w .,-]", "", token.value))  # a font's name needs no more
            elif token.type in ("ident", "hash", "number", "percentage", "dimension", "whitespace"):
                piece = token.serialize()
                if "\\" in piece:
                    piece = None
            elif token.type == "literal" and token.value in (",", "/", "+", "-", "*"):
                piece = token.value
            else:
                piece = None
            if piece is None:
                return None
            written.append(piece)
        return "".join(written).strip()

    def _loaded(self, url: str) -> str | None:
        other = self._url(url)
        return None if other is None else f"url({_string(other)})"


def _string(text: str) -> str:
    """Between single quotes, as it is to stand within an attribute. What would need an escape is left out."""
    return "'" + re.sub(r"[\x00-\x1f\x7f'\"\\<>]", "", text) + "'"
