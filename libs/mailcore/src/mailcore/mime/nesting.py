"""What a parser would make of HTML, estimated before one is let at it.

An HTML5 parser mends what it reads: formatting that was not closed is opened again in each block that follows, and end tags that do
not fit are passed over. So 47 kB become 50 MB of tree, and 100 kB of `<div>` take its time squared. Here the tags are gone through
once, with the parser's own rules for what an end tag closes (HTML §13.2.4.2, §13.2.6.4); where those are involved, more is counted
than it makes, never less.
"""

from __future__ import annotations

import re

MAX_DEPTH = 500
"""Browsers stop at 512."""
MAX_TAGS = 100_000
MAX_REPAIRS = 100_000
"""Elements that a parser makes on its own."""
_MAX_STEPS = 2_000_000
"""Looks at the open elements, all together."""

_TAG = re.compile(r"<(/?)([A-Za-z][^\t\n\f\r />]*)")
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
_FORMATTING = frozenset(
    ("a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
)
_SCOPE = frozenset(("table", "td", "th", "caption", "applet", "marquee", "object", "template", "button"))
_IN_TABLES = frozenset(("table", "tbody", "thead", "tfoot", "tr", "td", "th", "caption", "colgroup"))
_CLOSE_P = frozenset(
    (
        *("address", "article", "aside", "blockquote", "center", "details", "dialog", "dir", "div", "dl", "fieldset"),
        *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr"),
        *("listing", "main", "menu", "nav", "ol", "p", "pre", "search", "section", "summary", "ul", "li", "dd", "dt"),
    )
)
_SPECIAL = (
    _CLOSE_P
    | _SCOPE
    | _IN_TABLES
    | {"body", "html", "head", "iframe", "select", "style", "script", "textarea", "title"}
)
_CLOSES: dict[str, frozenset[str]] = {
    "li": frozenset(("li",)),
    "dd": frozenset(("dd", "dt")),
    "dt": frozenset(("dd", "dt")),
    "td": frozenset(("td", "th")),
    "th": frozenset(("td", "th")),
    "tr": frozenset(("tr",)),
    "tbody": frozenset(("tbody", "thead", "tfoot")),
}
"""What a start tag closes besides paragraphs, when it is open in the same list or table."""
_LISTS = frozenset(("ul", "ol", "dl"))


def is_bounded(html: str) -> bool:
    """Whether its tree is of about the size of the text, and no deeper than a browser shows."""
    tags = _Tags()
    for match in _TAG.finditer(html):
        name = match[2].lower()
        if match[1]:
            tags.close(name)
        else:
            tags.open(name)
        if tags.beyond():
            return False
    return True


class _Tags:
    """The open elements, and what has been counted."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._tags = 0
        self._unclosed = 0
        """Formatting that is open, or was closed around: the parser opens it again."""
        self._repairs = 0
        self._steps = 0
        self._tables = 0

    def beyond(self) -> bool:
        return (
            len(self._open) > MAX_DEPTH
            or self._tags > MAX_TAGS
            or self._repairs > MAX_REPAIRS
            or self._steps > _MAX_STEPS
        )

    def open(self, name: str) -> None:
        self._tags += 1
        if name in _FORMATTING:
            self._unclosed += 1
        else:
            self._repairs += self._unclosed
        if name in _IN_TABLES and name != "table" and not self._tables:
            return  # outside of a table it is passed over
        if name in _CLOSE_P:
            self._close_to(frozenset(("p",)), _SCOPE)
        if name in _CLOSES:
            self._close_to(_CLOSES[name], frozenset(("table",)) if name in _IN_TABLES else _SCOPE | _LISTS)
        if name not in _VOID:
            self._open.append(name)
            self._tables += name == "table"

    def close(self, name: str) -> None:
        self._tags += 1
        if name in _FORMATTING:
            if self._open and self._open[-1] == name:
                self._open.pop()
                self._unclosed -= 1
        elif name in _IN_TABLES:
            self._close_to(frozenset((name,)), frozenset(("table",)))
        elif name in _SPECIAL:
            self._close_to(frozenset((name,)), _SCOPE | _LISTS if name == "li" else _SCOPE)
        else:
            self._close_to(frozenset((name,)), _SPECIAL)

    def _close_to(self, names: frozenset[str], boundary: frozenset[str]) -> None:
        """Closes the innermost of `names` and what is in it, unless a boundary lies between."""
        for back, name in enumerate(reversed(self._open), start=1):
            self._steps += 1
            if name in names:
                self._tables -= self._open[-back:].count("table")
                del self._open[-back:]
                return
            if name in boundary:
                return
