"""Every payload of suites/dompurify through our sanitiser: nothing left that runs, and nothing that loads (reliability C7)."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import tinycss2

import suites
from mailcore.mime.sanitise import sanitise

_URLS = {
    "href",
    "src",
    "background",
    "srcset",
    "action",
    "formaction",
    "data",
    "poster",
    "xlink:href",
    "cite",
    "longdesc",
}
_RUNS = {
    *(
        "script",
        "style",
        "iframe",
        "frame",
        "object",
        "embed",
        "applet",
        "svg",
        "math",
        "form",
        "input",
        "button",
        "textarea",
    ),
    *(
        "select",
        "base",
        "meta",
        "link",
        "template",
        "video",
        "audio",
        "source",
        "track",
        "picture",
        "portal",
        "noscript",
    ),
}

_NEVER = {"id", "name", "class", "srcdoc", "is", "slot"}
_LOADS = re.compile(r"url|image|@|expression|\\|behaviou?r|binding|position", re.IGNORECASE)


class Left(HTMLParser):
    """What is left that could run or load."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.bad: list[object] = []
        self.seen: list[object] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, sorted(attrs, key=str)))
        if tag in _RUNS or ":" in tag or "-" in tag:
            self.bad.append(tag)
        for name, written in attrs:
            value = written or ""
            if name.startswith(("on", "xml", "data-", "aria-")) or name in _NEVER:
                self.bad.append((tag, name, value))
            elif name == "href" and tag == "a":
                if not re.match(r"(?:https?://|mailto:|tel:)", value, re.IGNORECASE):
                    self.bad.append((tag, name, value))
            elif name in _URLS:
                if not value.startswith(("data:image/png", "data:image/gif", "data:image/jpeg")):
                    self.bad.append((tag, name, value))
            elif name == "style" and _LOADS.search(re.sub(r"'[\w .,-]*'", "", value)):
                self.bad.append((tag, name, value))

    def handle_data(self, data: str) -> None:
        self.seen.append(data)

    def handle_comment(self, data: str) -> None:
        self.bad.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.bad.append(("declaration", decl))


def test_c7_no_payload_leaves_anything_that_runs_or_loads() -> None:
    payloads = [one["payload"] for one in json.loads((suites.suite("dompurify") / "expect.json").read_text())]
    assert len(payloads) == 223
    left = {}
    for payload in payloads:
        clean = sanitise(payload, inline=lambda cid: None)
        assert clean.html is not None, payload
        again = sanitise(clean.html, inline=lambda cid: None).html
        assert again is not None
        assert Left(again).seen == Left(clean.html).seen, "a second pass finds nothing more"
        if (bad := Left(clean.html).bad) != []:
            left[payload] = bad
    assert left == {}


@pytest.mark.parametrize(
    "html", ["<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<a href=javascript:1>x</a>"]
)
def test_the_test_can_see(html: str) -> None:
    assert Left(html).bad


def test_c7_styles_are_read_as_a_browser_reads_them() -> None:
    """The parser of the check is the sanitiser's: so what it writes is looked at once more as text, above; here as tokens."""
    styles = [
        "background:url(http://e.example/x)",
        "background:u\\72l(http://e.example/x)",
        "background-image:image-set(url(x) 1x)",
        "background:URL('http://e.example/x') no-repeat",
        "background:/**/url(/**/http://e.example/x)",
        "list-style:url(http://e.example/x)",
        "content:url(x)",
        "cursor:url(x),auto",
        "width:expression(alert(1))",
        "behavior:url(x.htc)",
        "-moz-binding:url(x)",
        "position:fixed;top:0",
        "color:red;@import 'http://e.example/x'",
        "background:var(--x)",
        "--x:url(http://e.example/x);color:red",
        "font-family:'a\\22 ;background:url(http://e.example/x)'",
        'color:red"onload="x',
        "color:red}body{background:url(http://e.example/x)}",
        "background:url(http://e.example/x",
        "color:rgb(1,2,3;background:url(http://e.example/x)",
    ]
    for style in styles:
        html = sanitise(f'<p style="{style}">x</p>'.replace('red"on', "red&quot;on"), inline=lambda cid: None).html
        assert html is not None
        assert Left(html).bad == [], style
        for found in re.findall(r'style="([^"]*)"', html):
            for one in tinycss2.parse_blocks_contents(found):
                assert one.type in ("declaration", "whitespace"), (style, found)
