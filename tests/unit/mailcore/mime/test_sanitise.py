"""HTML as it may be shown: its own images, links, styles; what is remote; and bounds (reliability C7)."""

from __future__ import annotations

import random
import time

import pytest

from mailcore.mime.nesting import is_bounded
from mailcore.mime.parse import Message
from mailcore.mime.plaintext import html_to_text
from mailcore.mime.sanitise import sanitise
from mailcore.mime.view import View, view


def _clean(html: str) -> str | None:
    return sanitise(html, inline=lambda cid: f"https://own.test/{cid}").html


@pytest.mark.parametrize(
    ("html", "clean"),
    [
        ('<p style="color:red">x</p>', '<p style="color:red">x</p>'),
        ('<img src="cid:a%40b" alt="y">', '<img src="https://own.test/a%40b" alt="y">'),
        ('<img src="CID:x">', '<img src="https://own.test/x">'),
        ('<img src="data:image/gif;base64,AA">', '<img src="data:image/gif;base64,AA">'),
        ('<img src="data:image/svg+xml;base64,AAAA" alt="a">', '<img alt="a">'),
        ('<img src="data:text/html,x">', "<img>"),
        ('<img src="x.png"><img src="/x"><img src="http:x">', "<img><img><img>"),
        ('<td background="cid:x">no table</td>', "no table"),
        ('<form action="x"><input value="v">text<button>b</button></form>', "textb"),
        ("<title>t</title><style>p{}</style>text<!-- c -->", "text"),
        ('<body bgcolor="red" onload="x"><center>c</center></body>', "<center>c</center>"),
        (
            '<p style="font-family:&quot;A B&quot;,serif;line-height:1.5!important">x</p>',
            "<p style=\"font-family:'A B',serif;line-height:1.5!important\">x</p>",
        ),
        ('<p style="color:hsl(1 2% 3%);width:calc(1px + 2%)">x</p>',) * 2,
        ("<p style='position:fixed;position:absolute;z-index:9'>x</p>", "<p>x</p>"),
    ],
)
def test_c7_what_stays(html: str, clean: str) -> None:
    assert _clean(html) == clean


def test_c7_links_open_elsewhere_and_tell_nothing() -> None:
    html = _clean(
        '<a href="https://a.test/?x=1&y=2" target="_top">k</a><a href="java\tscript:x">q</a><a href="#t">r</a>'
    )
    assert html is not None
    assert html.count('target="_blank"') == html.count('rel="noopener noreferrer nofollow"') == 3
    assert 'href="https://a.test/?x=1&amp;y=2"' in html
    assert html.count("href") == 1


def test_c7_what_is_remote_is_counted_and_left_out_or_put_elsewhere() -> None:
    html = (
        '<img src="http://t.test/a"><img src="//t.test/b"><table background="https://t.test/c"><tr><td '
        "style=\"background-image:url('https://t.test/d')\">x</td></tr></table><img srcset='http://t.test/e 2x'>"
    )
    blocked = sanitise(html, inline=lambda cid: None)
    assert (blocked.remote, "t.test" in (blocked.html or "")) == (4, False)
    seen: list[str] = []
    placed = sanitise(html, inline=lambda cid: None, remote=lambda url: seen.append(url) or "https://us.test/?u=1&v=2")
    assert seen == ["http://t.test/a", "https://t.test/b", "https://t.test/c", "https://t.test/d"]
    assert "t.test/a" not in (placed.html or "")
    assert (placed.html or "").count("https://us.test/?u=1&amp;v=2") == 4


_BOMBS = {
    "formatting that is never closed": lambda: "".join(f"<p><font color={n}></p>" for n in range(40_000)),
    "closed by another's end": lambda: "".join(f"<font color={n}></b>" for n in range(40_000)),
    "closed in another cell": lambda: "".join(
        f"<p><font color={n}><table><tr><td></font></table></p>" for n in range(9_000)
    ),
    "divs": lambda: "<div>" * 50_000,
    "divs closed where they are not open": lambda: "<div><table><tr><td></div>" * 9_000,
    "rows outside of tables": lambda: "<center></center><tbody><center>" * 9_000,
    "tables": lambda: "<table>" * 50_000,
    "spans closed behind blocks": lambda: "<span><div></span>" * 9_000,
    "open tags": lambda: "<a " * 200_000,
    "open attributes": lambda: '<a b="' * 200_000,
    "attributes": lambda: "<p " + "a=b " * 300_000 + ">",
    "comments": lambda: "<!--" * 300_000,
    "references": lambda: "&lt;&#x41;" * 200_000,
    "styles": lambda: "".join(f"<p style=\"font-family:'{n}'\">x</p>" for n in range(30_000)),
    "brackets in styles": lambda: f'<p style="width:calc({"(" * 7_000}">x',
}


@pytest.mark.parametrize("bomb", _BOMBS)
def test_c7_no_bomb_becomes_much_or_takes_long(bomb: str) -> None:
    html = _BOMBS[bomb]()
    before = time.process_time()
    clean = _clean(html)
    assert time.process_time() - before < 2.0
    assert clean is None or len(clean) <= 20 * len(html)


def test_c7_what_is_bounded_stays_small_whatever_it_is_made_of() -> None:
    blocks = ("p", "div", "table", "tr", "td", "tbody", "ul", "li", "dd", "dt", "center", "caption", "object")
    names = [*blocks, "span", "b", "font", "i", "a", "nobr", "select", "option", "button", "svg", "x-y", "ruby"]
    chance = random.Random(3)
    bounded = 0
    for _ in range(200):
        some = chance.sample(names, chance.randint(2, 6))
        unit = [(chance.random() < 0.45, chance.choice(some)) for _ in range(chance.randint(1, 8))]
        html = "".join(
            f"</{name}>" if closing else f"<{name} color={n}>"
            for n in range(chance.choice((50, 200, 500)))
            for closing, name in unit
        )
        if is_bounded(html):
            bounded += 1
            clean = _clean(html)
            assert clean is not None
            assert len(clean) < 100 * len(html) + 1_000, (unit, len(html))
            assert len(clean) < 5_000_000
    assert bounded > 100


def test_ordinary_mail_is_within_bounds() -> None:
    row = '<tr><td align="center" style="padding:0"><p>text<b>bold</b><br><a href="https://a.test">k</a></td></tr>'
    assert is_bounded(f"<table>{row * 3_000}</table>")
    assert is_bounded("<p>a<p>b<ul><li>c<li>d</ul>" * 3_000)
    assert is_bounded("<blockquote>" * 60 + "x" + "</blockquote>" * 60)


def _mail(html: str) -> Message:
    return Message(
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
        + html.encode()
        + b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <i>\r\n\r\nPNG\r\n"
        b"--b\r\nContent-Type: image/svg+xml\r\nContent-ID: <s>\r\n\r\n<svg/>\r\n--b--\r\n"
    )


def test_a_view_has_the_mails_own_images_and_places_for_urls() -> None:
    html = '<img src="cid:i"><img src="cid:s"><img src="cid:none"><img src="http://t.test/&lt;x&gt;">'
    shown = view(_mail(html), "data")
    assert (shown.html, shown.text, shown.remote_found) == (
        '<img src="data:image/png;base64,UE5H"><img><img><img>',
        "",
        1,
    )
    linked = view(_mail(html), "link", remote=True)
    assert (linked.files, linked.remote) == ([0], ["http://t.test/<x>"])
    assert linked.filled(lambda url: f"/r?u={url}", lambda n: f"/a/{n}?x&y") == (
        '<img src="/a/0?x&amp;y"><img><img><img src="/r?u=http://t.test/&lt;x&gt;">'
    )
    assert View(**linked.as_json()) == linked
    beyond = view(_mail("<div>" * 2_000 + "words"), "data")
    assert (beyond.html, beyond.text) == (None, html_to_text("<div>" * 2_000 + "words"))
