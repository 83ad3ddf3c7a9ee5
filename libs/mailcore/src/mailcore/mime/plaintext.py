"""Plain text out of HTML, for the mail that came with html only.

One pass over tags, each character looked at a bounded number of times: the standard library's parser takes quadratic time
on unclosed comments and tags. What a browser would not show is left out (script, style, title, comments, display:none).
Links become `text (address)`, images their alternative text, lists get their marks, table cells a blank between them.
"""

from __future__ import annotations

import html as entities
import re

MAX_HTML = 1_000_000
"""Characters that are looked at; the rest is cut off."""
_MAX_INDENT = 8
_MAX_LINK = 4_000

_RAW = frozenset(("script", "style", "title", "template", "noscript", "textarea", "iframe", "object", "svg", "math"))
_PARAGRAPHS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "form", "figure")
)
_LINES = frozenset(
    (
        *(
            "address",
            "article",
            "aside",
            "body",
            "center",
            "dd",
            "details",
            "div",
            "dt",
            "fieldset",
            "footer",
            "header",
        ),
        *("hr", "html", "legend", "li", "main", "nav", "section", "summary", "tr"),
    )
)
_HIDDEN_TAGS = frozenset(("div", "span", "p", "table", "td", "tr", "center"))
_NAME = re.compile(r"[A-Za-z][^\s/>]*")
_TAG_STOP = re.compile(r"[>\"']")
# the look-behind lets no attempt begin inside a name: without it a long name takes quadratic time
_ATTRIBUTE = re.compile(r"(?<![^\s\"'/>=])([^\s=\"'/>]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_BLANK = " \t\r\n\f"
_BLANKS = re.compile(rf"[{_BLANK}]+")
_HUGE_REFERENCE = re.compile(r"&#(?:[0-9]{8,}|[xX][0-9a-fA-F]{7,});?")
_INVISIBLE = re.compile("[\u00ad\u034f\u200b-\u200d\u2060\ufeff]")
_TOO_MANY_BREAKS = re.compile(r"\n{3,}")
_ENDS_OF_RAW = {name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in _RAW}


def html_to_text(html: str) -> str:
    """The text a reader of `html` would see, with `\\n` as line end and none at its end. Never raises."""
    document = html[:MAX_HTML]
    text = _Text()
    position = 0
    while True:
        opening = document.find("<", position)
        if opening < 0:
            text.add(document[position:])
            break
        text.add(document[position:opening])
        position = _markup(document, opening, text)
        if position < 0:
            break
    return text.finish()


def _markup(document: str, opening: int, text: _Text) -> int:
    """What begins with the `<` at `opening`; returns where text goes on, or -1 where nothing is left to show."""
    following = document[opening + 1 : opening + 2]
    if document.startswith("<!--", opening):
        end = document.find("-->", opening + 2)
        return end + 3 if end >= 0 else -1
    if following in ("!", "?"):
        end = document.find(">", opening)
        return end + 1 if end >= 0 else -1
    closing = following == "/"
    name = _NAME.match(document, opening + 1 + closing)
    if name is None:
        text.add("<")
        return opening + 1
    end = _end_of_tag(document, name.end())
    if end < 0:
        return -1
    tag = name[0].lower()
    if closing:
        text.close(tag)
    elif tag in _RAW and not (tag in ("svg", "math") and document[end - 2] == "/"):
        raw_end = _ENDS_OF_RAW[tag].search(document, end)
        if raw_end is None:
            return -1
        return _end_of_tag(document, raw_end.end() - 1)
    else:
        text.open(tag, document[name.end() : end - 1])
    return end


def _end_of_tag(document: str, position: int) -> int:
    """After the `>` that ends the tag, one inside quotes does not; -1 where there is none."""
    while True:
        stop = _TAG_STOP.search(document, position)
        if stop is None:
            return -1
        if stop[0] == ">":
            return stop.end()
        position = document.find(stop[0], stop.end()) + 1
        if position == 0:
            # a quote without its twin: the next `>` ends the tag. This happens once per kind of quote, so time stays linear.
            return document.find(">", stop.end()) + 1 or -1


class _Text:
    """Collects pieces; breaks are remembered and written when text follows, so that none double."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._breaks = 0
        self._blank = False
        self._preformatted = 0
        self._lists: list[int] = []  # -1: bullets; else the number of the last item
        self._link: tuple[str, int] | None = None  # address, and the number of pieces when it opened
        self._item_begun = False  # a list mark stands, its text does not yet
        self._hidden: tuple[str, int] | None = None  # the tag that hides, and how deep it is nested in itself

    def add(self, source: str) -> None:
        if not source or self._hidden:
            return
        if "&" in source:
            source = _unescape(source)
        self._add_plain(source)

    def _add_plain(self, source: str) -> None:
        if not source.isascii():
            # a no-break space is a blank once nothing is laid out any more
            source = _INVISIBLE.sub("", source).replace("\u00a0", " ")
        if not source:
            return
        if self._preformatted:
            self._write(source.replace("\r\n", "\n").replace("\r", "\n"))
            return
        if source[0] in _BLANK:
            self._blank = True
        words = " ".join(source.split()) if source.isascii() else _BLANKS.sub(" ", source).strip(" ")
        if words:
            self._write(words)
            self._blank = source[-1] in _BLANK

    def open(self, tag: str, attributes: str) -> None:
        if self._hidden:
            if tag == self._hidden[0]:
                self._hidden = (tag, self._hidden[1] + 1)
            return
        values = _attributes(attributes) if tag in _HIDDEN_TAGS or tag in ("a", "img") else {}
        if tag in _HIDDEN_TAGS and (_HIDDEN.search(values.get("style", "")) or "data-skip-in-text" in values):
            self._hidden = (tag, 1)
            return
        if tag in _PARAGRAPHS:
            self._break(1 if self._lists else 2)
        elif tag in _LINES:
            self._break(1)
        self._open_one(tag, values)

    def _open_one(self, tag: str, values: dict[str, str]) -> None:
        if tag == "br":
            self._breaks += 1
            self._blank = False
        elif tag == "hr":
            self._write("---")
            self._break(1)
        elif tag in ("ul", "ol"):
            self._lists.append(-1 if tag == "ul" else 0)
        elif tag == "li":
            self._write(self._item_mark())
            self._item_begun = True
        elif tag in ("td", "th"):
            self._blank = True
        elif tag == "pre":
            self._preformatted += 1
        elif tag == "img":
            self._add_plain(values.get("alt", ""))
        elif tag == "a":
            self._close_link()  # links do not nest
            self._link = (values.get("href", "").strip(), len(self._pieces))

    def close(self, tag: str) -> None:
        if self._hidden:
            name, depth = self._hidden
            if tag == name:
                self._hidden = (name, depth - 1) if depth > 1 else None
            return
        if tag == "a":
            self._close_link()
        elif tag in ("ul", "ol"):
            if self._lists:
                self._lists.pop()
            self._break(1 if self._lists else 2)
        elif tag in _PARAGRAPHS:
            if tag == "pre" and self._preformatted:
                self._preformatted -= 1
            self._break(1 if self._lists else 2)
        elif tag in _LINES:
            self._break(1)

    def finish(self) -> str:
        lines = [line.rstrip() for line in "".join(self._pieces).split("\n")]
        return _TOO_MANY_BREAKS.sub("\n\n", "\n".join(lines)).strip("\n")

    def _close_link(self) -> None:
        if self._link is None:
            return
        address, since = self._link
        self._link = None
        scheme, _, rest = address.partition(":")
        if scheme.lower() not in ("http", "https", "mailto", "tel") or len(address) > _MAX_LINK:
            return
        shown = "".join(self._pieces[since:]).strip()
        if not shown:
            self._write(address)
        elif shown.strip("/") not in (address.strip("/"), rest.strip("/")):
            self._write(f" ({address})")

    def _item_mark(self) -> str:
        indent = "  " * min(max(len(self._lists) - 1, 0), _MAX_INDENT)
        if not self._lists or self._lists[-1] < 0:
            return f"{indent}- "
        self._lists[-1] += 1
        return f"{indent}{self._lists[-1]}. "

    def _break(self, count: int) -> None:
        if self._item_begun:
            return
        self._breaks = max(self._breaks, count)
        self._blank = False

    def _write(self, piece: str) -> None:
        if self._breaks:
            if self._pieces:
                self._pieces.append("\n" * self._breaks)
            self._breaks = 0
        elif self._blank and self._pieces:
            self._pieces.append(" ")
        self._blank = self._item_begun = False
        self._pieces.append(piece)


def _unescape(source: str) -> str:
    # int() refuses more than 4,300 digits, so such references are taken out before
    return entities.unescape(_HUGE_REFERENCE.sub("\ufffd", source))


def _attributes(source: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(source):
        name, double, single, bare = match.groups()
        # the first of two wins, as in a browser
        found.setdefault(name.lower(), _unescape(double or single or bare or ""))
    return found
