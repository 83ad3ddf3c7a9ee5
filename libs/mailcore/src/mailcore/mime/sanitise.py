"""Strangers' HTML as it may be shown: no script, no handler, no form, nothing that loads unless it was asked for.

1. bounds   how deep its tags nest and what a parser's repairs would make of them (mime.nesting): beyond, the HTML is not shown,
            its text is
2. tags     and attributes by an allow-list (nh3, an HTML5 parser that writes anew what it parsed)
3. URLs     links go to http, https, mailto and tel; images are the mail's own (`cid:`, `data:`) or remote: left out and counted,
            or what the caller puts in their place
4. styles   mime.css

It is shown in a frame without scripts and without our origin (docs/messages.md): this is the first wall, not the only one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import nh3

from mailcore.mime.css import Styles
from mailcore.mime.nesting import is_bounded

MAX_HTML = 2_000_000
"""Characters; the rest is cut off."""

Place: TypeAlias = Callable[[str], "str | None"]
"""Of an image: its `cid:` without the scheme, or its URL, to the URL that stands in its place; None: it is left out."""


@dataclass(frozen=True, slots=True)
class Clean:
    html: str | None
    """None: it is beyond a bound; show its text."""
    remote: int
    """Images, and styles, that name another host: whether left out or put elsewhere."""


_LAYOUT = (
    "align",
    "bgcolor",
    "border",
    "cellpadding",
    "cellspacing",
    "height",
    "valign",
    "width",
    "dir",
    "lang",
    "style",
)
_TAGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            *(
                "abbr",
                "acronym",
                "address",
                "article",
                "aside",
                "b",
                "bdi",
                "bdo",
                "big",
                "blockquote",
                "br",
                "caption",
            ),
            *("center", "cite", "code", "dd", "del", "details", "dfn", "div", "dl", "dt", "em", "figcaption", "figure"),
            *("footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "i", "ins", "kbd", "li", "main", "mark"),
            *("nav", "p", "pre", "q", "s", "samp", "section", "small", "span", "strike", "strong", "sub", "summary"),
            *("sup", "table", "tbody", "tfoot", "thead", "time", "tr", "tt", "u", "ul", "var", "wbr"),
        ),
        (),
    ),
    "a": ("href", "title"),
    "col": ("span",),
    "colgroup": ("span",),
    "font": ("color", "face", "size"),
    "img": ("src", "alt", "title", "hspace", "vspace"),
    "ol": ("start", "type", "reversed"),
    "table": ("background", "summary"),
    "td": ("background", "colspan", "rowspan", "nowrap"),
    "th": ("background", "colspan", "rowspan", "nowrap", "scope"),
    "tr": ("background",),
}
_WITH_CONTENT = frozenset(
    (
        *("script", "style", "title", "template", "noscript", "textarea", "iframe", "object", "embed", "applet", "svg"),
        *("math", "select", "noembed", "noframes", "xmp", "plaintext", "frameset", "audio", "video", "canvas"),
    )
)
"""These go with all that is inside; of other tags that are not allowed the text stays."""
_LOADED = frozenset((("img", "src"), *((tag, "background") for tag in ("table", "td", "th", "tr"))))
_BLANKS = re.compile("[\x00-\x20\x7f-\xa0\u200b-\u200f\u2028-\u202f\u2060\ufeff]+")
_LINK = re.compile(r"(?:https?://|mailto:|tel:)[^\s]", re.IGNORECASE)
_REMOTE = re.compile(r"(?:https?:)?//[^\s/\\]", re.IGNORECASE)
_CID = re.compile(r"cid:(.{1,300})\Z", re.IGNORECASE)
_DATA = re.compile(r"data:image/(?:png|jpe?g|gif|webp|avif|bmp|x-icon);base64,[A-Za-z0-9+/=\s%]*\Z", re.IGNORECASE)
MAX_URL = 4_000


def sanitise(html: str, *, inline: Place, remote: Place | None = None) -> Clean:
    """`inline`: what stands for an image of the mail itself; `remote`: for one that is elsewhere (None: none is loaded).

    Never raises for what the HTML holds; linear in it.
    """
    html = html[:MAX_HTML]
    if not is_bounded(html):
        return Clean(None, 0)
    urls = _Urls(inline, remote)
    styles = Styles(urls.image)

    def attribute(tag: str, name: str, value: str) -> str | None:
        if name == "style":
            return styles.clean(value)
        if (tag, name) in _LOADED:
            return urls.image(value)
        if name == "href":
            return _link(value)
        return value[:MAX_URL]

    clean = nh3.clean(
        html,
        tags=set(_TAGS),
        clean_content_tags=set(_WITH_CONTENT),
        attributes={tag: {*own, *_LAYOUT} for tag, own in _TAGS.items()},
        attribute_filter=attribute,
        url_schemes={"http", "https", "mailto", "tel", "cid", "data"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
    return Clean(clean, urls.found)


class _Urls:
    """Of one mail's images."""

    def __init__(self, inline: Place, remote: Place | None) -> None:
        self._inline = inline
        self._remote = remote
        self.found = 0

    def image(self, url: str) -> str | None:
        url = url.strip("\t\n\f\r ")
        if (match := _CID.match(url)) is not None:
            return self._inline(match[1])
        if url[:5].lower() == "data:":
            return url if _DATA.match(url) else None
        url = _BLANKS.sub("", url)
        if not _REMOTE.match(url) or len(url) > MAX_URL:
            return None  # of a page that a mail is not
        self.found += 1
        return self._remote(f"https:{url}" if url.startswith("//") else url) if self._remote is not None else None


def _link(url: str) -> str | None:
    url = _BLANKS.sub("", url)
    return url if len(url) <= MAX_URL and _LINK.match(url) else None
