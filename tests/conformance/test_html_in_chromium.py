"""Strangers' HTML in a real browser, as it comes out of our sanitiser: no dialog, no request (reliability C7).

Each document stands in a frame that allows everything, so that the sanitiser alone is looked at; and as it came in the frame that
docs/messages.md asks for, so that this wall is looked at alone, too. `make test-browser` shows many more.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import suites
from browser import Browser, Seen
from mailcore.mime.parse import Message
from mailcore.mime.sanitise import sanitise

MADE = int(os.environ.get("POSTROOM_TEST_DOCUMENTS", "0"))
"""Documents put together of pieces; 0: few, and of the suites a part."""
FRAME = "allow-popups"
CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SEEN = {
    "an image": '<img src="http://t.test/a.png">',
    "a handler": "<img src=x onerror=alert(1)>",
    "a script": "<script>alert(1)</script>",
    "a style": "<style>body{background:url(http://t.test/s)}</style>",
    "an import": "<style>@import 'http://t.test/i.css'</style>",
    "a link": "<link rel=stylesheet href=http://t.test/l.css>",
    "a frame": "<iframe src=http://t.test/f></iframe>",
    "a document in a frame": "<iframe srcdoc='<script>parent.alert(2)</script>'></iframe>",
    "an attribute": '<p style="background:url(//t.test/p)">x</p>',
    "a font": "<style>@font-face{font-family:f;src:url(http://t.test/f.woff)}p{font-family:f}</style><p>x</p>",
    "another page": "<meta http-equiv=refresh content='0;url=http://t.test/m'>",
    "a base": "<base href=http://t.test/><img src=b>",
    "a video": "<video poster=http://t.test/v src=http://t.test/w></video>",
    "an SVG": "<svg><image href='http://t.test/g'/><use href='http://t.test/u#a'/></svg>",
    "SVG that runs": "<svg onload=alert(3)>",
    "an object": "<object data=http://t.test/o></object><embed src=http://t.test/e>",
    "a background": "<table background=http://t.test/t><tr><td>x</table>",
    "several sizes": "<img srcset='http://t.test/2x 2x, http://t.test/1x 1x'>",
    "fetched ahead": "<link rel=prefetch href=http://t.test/pf><link rel=preload as=image href=http://t.test/pl>",
    "a list": "<ul style=\"list-style-image:url('http://t.test/li')\"><li>x</ul>",
    "an input": "<input type=image src=http://t.test/in><input autofocus onfocus=this.onfocus=null,alert(4)>",
    "a set of images": "<p style=\"background:image-set('http://t.test/is' 1x)\">x</p>",
}
"""Each of these does something in that browser: that shows that the test can see."""
TAGS = (
    *(
        "p",
        "div",
        "b",
        "table",
        "tr",
        "td",
        "a",
        "img",
        "svg",
        "math",
        "style",
        "title",
        "noscript",
        "textarea",
        "template",
        "select",
    ),
    *(
        "form",
        "iframe",
        "mglyph",
        "mtext",
        "annotation-xml",
        "foreignObject",
        "desc",
        "xmp",
        "font",
        "plaintext",
        "option",
        "script",
    ),
)
ATTRIBUTES = (
    *(
        "src=http://t.test/1",
        "href=http://t.test/2",
        "onerror=alert(5)",
        "onload=alert(6)",
        "background=http://t.test/3",
    ),
    *(
        "style='background:url(http://t.test/4)'",
        'style="x:expression(1);background:u\\72l(http://t.test/5)"',
        "id=x name=y",
    ),
    *(
        'title="</style><img src=x onerror=alert(7)>"',
        "title='--><img src=http://t.test/6>'",
        "srcset='http://t.test/7 2x'",
    ),
    *(
        "xlink:href=http://t.test/8",
        "encoding=text/html",
        "onfocus=alert(8) autofocus tabindex=1",
        "data=http://t.test/9",
        "\x0conload=alert(9)",
    ),
)
BETWEEN = (
    *(
        "<!--",
        "-->",
        "--!>",
        "<![CDATA[",
        "]]>",
        "x",
        "&lt;img src=http://t.test/10&gt;",
        "<img src=http://t.test/11 onerror=alert(10)>",
    ),
    *(
        "</p>",
        "</",
        "<",
        '"',
        "'",
        "`",
        "<a href='javascript:alert(11)'>k</a>",
        "\0",
        "&#x3c;script&#x3e;alert(12)&#x3c;/script&#x3e;",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture
async def browser(folder: Path) -> AsyncIterator[Browser]:
    async with Browser.start(folder) as running:
        yield running


def _clean(html: str) -> str:
    return sanitise(html, inline=lambda cid: None).html or ""


def _payloads(every: int = 1) -> list[str]:
    found = [one["payload"] for one in json.loads((suites.suite("dompurify") / "expect.json").read_text())]
    return [*SEEN.values(), *found[:: 1 if MADE else every]]


def _mails() -> list[str]:
    files = sorted(suites.suite("mail-parser-stalwart").rglob("*.eml"))
    found = [Message(path.read_bytes()).bodies().html for path in files[:: 1 if MADE else 5]]
    return [html for html in found if html]


def _made(count: int) -> list[str]:
    chance = random.Random(7)

    def piece() -> str:
        if chance.random() < 0.35:
            return chance.choice(BETWEEN)
        tag = chance.choice(TAGS)
        if chance.random() < 0.3:
            return f"</{tag}>"
        return f"<{' '.join([tag, *chance.sample(ATTRIBUTES, chance.randint(0, 2))])}>"

    return ["".join(piece() for _ in range(chance.randint(2, 14))) for _ in range(count)]


def _silent(documents: dict[str, str], seen: Seen) -> list[str]:
    did, asked = {n for n, _ in seen.dialogs}, [url for _, url in seen.requests]
    # what a base makes of a name, and a URL without its scheme
    by_others = {"a base": "http://t.test/b", "an attribute": "http://t.test/p"}
    return [
        name
        for n, (name, html) in enumerate(documents.items())
        if not (by_others[name] in asked if name in by_others else n in did or any(url in html for url in asked))
    ]


@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
async def test_c7_the_browser_is_seen(browser: Browser, alone: bool) -> None:
    """Some load a moment later. Who is to have the focus by himself has it for certain only where nobody else is."""
    documents = {name: html for name, html in SEEN.items() if ("autofocus" in html) == alone}
    words = {"4"} if alone else {"1", "2", "3"}

    def enough(seen: Seen) -> bool:
        return not _silent(documents, seen) and {said for _, said in seen.dialogs} == words

    seen = await browser.show(list(documents.values()), enough=enough)
    assert _silent(documents, seen) == []
    assert {said for _, said in seen.dialogs} == words


async def test_c7_nothing_sanitised_runs_or_loads(browser: Browser) -> None:
    documents = [*_payloads(), *_mails(), *_made(MADE or 60)]
    assert await browser.show([_clean(each) for each in documents]) == Seen()


async def test_c7_the_frame_holds_by_itself(browser: Browser) -> None:
    """As it came, nothing taken out."""
    seen = await browser.show(_payloads(every=6), sandbox=FRAME, csp=CSP)
    assert seen.dialogs == []
    # a document may send its own frame elsewhere, which no policy of its own forbids: the sanitiser takes that out
    assert {url for _, url in seen.requests} <= {"http://t.test/m"}


async def test_c7_images_that_are_asked_for_come_from_us_alone(browser: Browser) -> None:
    ours = [
        sanitise(each, inline=lambda cid: None, remote=lambda url: "http://us.test/i").html or ""
        for each in _payloads(every=6)
    ]
    seen = await browser.show(ours)
    assert seen.dialogs == []
    assert {url for _, url in seen.requests} == {"http://us.test/i"}
