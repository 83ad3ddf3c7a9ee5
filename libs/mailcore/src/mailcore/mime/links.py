"""Where the links of an HTML mail stand, and where what it shows ends: as much of WHATWG HTML §13.2.5 as that needs.

One pass, each character looked at a bounded number of times whatever the markup. Nothing is parsed into a tree and nothing written
again: who changes a link replaces its span and leaves every other character of the mail as it is.

Text that only looks like a link is none: comments (conditional ones too), `<!…>` and `<?…>`, script, style and other elements whose
content is text, tags that never end.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.entities import html5

NOT_TRACKED = frozenset(
    ("data-no-track", "data-resend-no-track", "data-pm-no-track", "ses:no-track", "data-disable-tracking")
)
"""Attributes by which a link asks to be left as it is: ours, and those that other senders' templates have."""

_BLANK = "\t\n\f\r "
_COMMENT_END = re.compile("--!?>")
_NAME = re.compile(rf"[A-Za-z][^{_BLANK}/>]*+")
_BETWEEN = re.compile(rf"[{_BLANK}/]*+")
_ATTRIBUTE = re.compile(rf"([^{_BLANK}/>][^{_BLANK}/>=]*+)(?:[{_BLANK}]*+(=)[{_BLANK}]*+)?")
_UNQUOTED = re.compile(rf"[^{_BLANK}>]*+")
_TEXT_ONLY = {
    name: re.compile(rf"</{name}[{_BLANK}/>]", re.IGNORECASE)
    for name in ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
}
_LINKS = ("a", "area")


@dataclass(frozen=True, slots=True)
class Link:
    """`html[start:end]` is the value of the href, without its quotes."""

    start: int
    end: int
    url: str
    """The value with its character references resolved and without blanks at its ends."""


@dataclass(slots=True)
class Scan:
    links: list[Link] = field(default_factory=list)
    end: int = 0
    """Where something may be put in as the last thing that is shown: before the last `</body>`, else before `</html>`, else at the
    end; never inside what the mail left open (a comment, a style, a tag)."""


def scan(html: str, *, most: int) -> Scan:
    """All links that may be changed, in their order, at most so many."""
    found = Scan()
    body = document = -1
    at = 0
    while True:
        begin = html.find("<", at)
        following = html[begin + 1 : begin + 2] if begin >= 0 else ""
        if begin < 0:
            found.end = len(html)
            break
        if following in ("!", "?"):
            at = _after_declaration(html, begin)
        elif following == "/" or (following.isascii() and following.isalpha()):
            at = _after_tag(html, begin, found if len(found.links) < most else None)
            name = html[begin + 1 : begin + 7].lower()
            if name == "/body>" or (name[:5] == "/body" and name[5:6] in f"{_BLANK}/"):
                body = begin
            elif name == "/html>" or (name[:5] == "/html" and name[5:6] in f"{_BLANK}/"):
                document = begin
        else:
            at = begin + 1
            continue
        if at < 0:
            found.end = begin
            break
    if body >= 0:
        found.end = body
    elif document >= 0:
        found.end = document
    return found


def _after_declaration(html: str, begin: int) -> int:
    """Behind a comment or a `<!…>`; -1 when it has no end."""
    if not html.startswith("<!--", begin):
        return html.find(">", begin) + 1 or -1
    for abrupt in (">", "->"):
        if html.startswith(abrupt, begin + 4):
            return begin + 4 + len(abrupt)
    end = _COMMENT_END.search(html, begin + 4)
    return end.end() if end else -1


def _after_tag(html: str, begin: int, found: Scan | None) -> int:
    """Behind a tag, and behind the text of an element that holds nothing else; -1 when it has no end. Its link goes to `found`."""
    closing = html.startswith("/", begin + 1)
    named = _NAME.match(html, begin + 1 + closing)
    if named is None:
        return html.find(">", begin) + 1 or -1  # `</>` and `</ …>` are comments
    name = named[0].lower()
    at = named.end()
    if closing or name not in _LINKS:
        # without a quote before it, the next `>` is the end
        end = html.find(">", at)
        if end < 0:
            return -1
        if '"' in html[at:end] or "'" in html[at:end]:
            end = at
            for end, _, _, _ in _attributes(html, at):  # noqa: B007 - the last one's end is wanted
                pass
            if end < 0:
                return -1
            end = _BETWEEN.match(html, end).end()  # type: ignore[union-attr]
        at = end + 1
    else:
        link, at = _link(html, at)
        if link is not None and found is not None:
            found.links.append(link)
    if at > 0 and not closing:
        if name == "plaintext":
            return -1
        if name in _TEXT_ONLY:
            end_tag = _TEXT_ONLY[name].search(html, at)
            if end_tag is None or (name == "script" and _is_nested(html[at : end_tag.start()])):
                return -1
            return end_tag.start()
    return at


def _is_nested(script: str) -> bool:
    """Its first end tag may end nothing (§13.2.5.26); what follows is left alone."""
    begin = script.find("<!--")
    return begin >= 0 and "<script" in script[begin:].lower()


def _link(html: str, at: int) -> tuple[Link | None, int]:
    """The link of a tag whose attributes begin here, and where the tag ends (-1: nowhere)."""
    link: Link | None = None
    seen = left_alone = False
    for end, name, start, stop in _attributes(html, at):
        if end < 0:
            return None, -1
        at = end
        if name in NOT_TRACKED or (name == "clicktracking" and html[start:stop].lower() == "off"):
            left_alone = True
        elif name == "href" and not seen:  # of several, the first counts
            seen = True
            link = Link(start, stop, unescape(html[start:stop]).strip(_BLANK)) if stop > start else None
    after = _BETWEEN.match(html, at).end()  # type: ignore[union-attr]
    return (None if left_alone else link), after + 1


def _attributes(html: str, at: int) -> Iterator[tuple[int, str, int, int]]:
    """`(end, name, start, stop)`: a value is `html[start:stop]`. An end of -1 says that the tag has none."""
    while True:
        at = _BETWEEN.match(html, at).end()  # type: ignore[union-attr]
        if at >= len(html):
            yield -1, "", 0, 0
            return
        if html[at] == ">":
            return
        attribute = _ATTRIBUTE.match(html, at)
        assert attribute is not None  # anything but a blank, a slash and `>` begins one
        name, start = attribute[1].lower(), attribute.end()
        if attribute[2] is None:
            stop = at = start
        elif html[start : start + 1] in ('"', "'"):
            stop = html.find(html[start], start + 1)
            if stop < 0:
                yield -1, "", 0, 0
                return
            start, at = start + 1, stop + 1
        else:
            stop = at = _UNQUOTED.match(html, start).end()  # type: ignore[union-attr]
        yield at, name, start, stop


_REFERENCE = re.compile(r"&(?:#[0-9]+;?|#[xX][0-9a-fA-F]+;?|([A-Za-z][A-Za-z0-9]*+)(;?))(=?)")


def unescape(value: str) -> str:
    """An attribute's value with its character references resolved (WHATWG HTML §13.2.5.73).

    Unlike in text, a name without its semicolon before `=` or a letter stands for itself: `?a=1&copy=2` holds no `©`.
    """
    return _REFERENCE.sub(_character, value) if "&" in value else value


def _character(match: re.Match[str]) -> str:
    name, semicolon, equals = match[1], match[2], match[3]
    if name is None:
        whole = match[0].removesuffix("=")
        digits = whole.strip("&#xX;")
        # int() of a number of any length takes quadratic time; the last code point has 7 digits
        return "\ufffd" + equals if len(digits.lstrip("0")) > 7 else entities.unescape(whole) + equals
    if semicolon:
        return html5.get(f"{name};", f"&{name};") + equals
    return match[0] if equals or name not in html5 else html5[name]
