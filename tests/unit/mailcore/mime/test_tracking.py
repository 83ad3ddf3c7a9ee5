"""What tracking puts into html, what it leaves alone, and which tokens it believes."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailcore.mailauth.dkim.sign import OVERSIGNED
from mailcore.mime.links import scan, unescape
from mailcore.mime.tracking import (
    ALL,
    MAX_HTML,
    MAX_LINKS,
    MAX_TARGET,
    Tracking,
    click_url,
    open_url,
    read_click,
    read_open,
    read_unsubscribe,
    target,
    track,
    unsubscribe_headers,
    unsubscribe_token,
)

KEY = b"k" * 32
ORG, EMAIL = UUID(int=1), UUID(int=2)
BOTH = Tracking("https://links.example", KEY, opens=True, clicks=True)
CLICKS = Tracking("https://links.example", KEY, opens=False, clicks=True)
_TRACKED = re.compile(r"https://links\.example/track/click/([A-Za-z0-9_-]+)")
_PIXEL = re.compile(
    r'<img src="https://links\.example/track/open/[A-Za-z0-9_-]+" width="1" height="1" alt="" style="border:0">'
)


def tracked(html: str, tracking: Tracking = CLICKS) -> str:
    return track(html, tracking, ORG, EMAIL)


def targets(html: str) -> list[str]:
    """Where the links that were replaced lead to."""
    found = [read_click([KEY], token) for token in _TRACKED.findall(tracked(html))]
    assert None not in found
    return [each.url or "" for each in found if each is not None]


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="https://a.example/">x</a>', "https://a.example/"),
        ("<a href='http://a.example/?q=1&amp;r=2#f'>", "http://a.example/?q=1&r=2#f"),
        (
            '<a href="https://a.example/?a=1&copy=2&lt;=3&notit;&#38;x=&#x26;">',
            "https://a.example/?a=1&copy=2<=3&notit;&x=&",
        ),
        ("<a href=https://a.example/x/>", "https://a.example/x/"),
        ("<A\n HREF \t=\n ' https://a.example/ '>", "https://a.example/"),
        ('<area shape=rect href="https://a.example/">', "https://a.example/"),
        ('<a/class="x"/href="https://a.example/">', "https://a.example/"),
        ('<a title="a>b" href="https://a.example/">', "https://a.example/"),
        ('<a href="https://a.example/" href="https://b.example/">', "https://a.example/"),
        ('<a href="https://a.example/ä?ö=ü">', "https://a.example/%C3%A4?%C3%B6=%C3%BC"),
        ('<a href="HTTPS://[2001:db8::1]:8443/">', "HTTPS://[2001:db8::1]:8443/"),
        ('<![if !mso]><a href="https://a.example/"><![endif]>', "https://a.example/"),
        ('<!--x--><a href="https://a.example/">', "https://a.example/"),
        ('<style>a{}</style ><a href="https://a.example/">', "https://a.example/"),
        ("<p title='<!--'><a href=\"https://a.example/\">", "https://a.example/"),
        ('a < b <a href="https://a.example/">', "https://a.example/"),
    ],
)
def test_links_that_are_replaced(html: str, expected: str) -> None:
    assert targets(html) == [expected]
    assert len(tracked(html)) > len(html)


@pytest.mark.parametrize(
    "html",
    [
        *(
            '<a href="mailto:a@b.example">',
            '<a href="tel:+1">',
            '<a href="#top">',
            '<a href="/x">',
            '<a href="//a.example/">',
        ),
        *(
            '<a href="javascript:alert(1)">',
            '<a href="data:text/html,x">',
            '<a href="">',
            "<a href>",
            "<a>",
            '<a href="https:a">',
        ),
        *('<a href="https:\\\\a.example">', '<a href="https://a.example\\x">', '<a href="https://a.example/ b">'),
        *(
            '<a href="https://u:p@a.example/">',
            '<a href="https://a.example/\tx">',
            '<a href="https://bücher.example/">',
        ),
        *(
            '<a href="https://a.example/{{id}}">',
            '<a href="{{{RESEND_UNSUBSCRIBE_URL}}}">',
            '<a href="https://a.example/Unsubscribe">',
        ),
        *('<a href="https://links.example/track/click/x">', '<a data-no-track href="https://a.example/">'),
        *('<a href="https://a.example/" data-resend-no-track="">', '<a clicktracking=off href="https://a.example/">'),
        *('<!-- <a href="https://a.example/"> -->', '<!--[if mso]><a href="https://a.example/"><![endif]-->'),
        *('<style><a href="https://a.example/"></style>', '<script>x="<a href=https://a.example/>"</script>'),
        *(
            '<script><!--<script></script><a href="https://a.example/">--></script>',
            '<textarea><a href="https://a.example/">',
        ),
        *(
            '<a href="https://a.example/',
            "<a href=https://a.example/",
            '<link href="https://a.example/">',
            '<img src="https://a.example/">',
        ),
        *(
            '</a href="https://a.example/">',
            '<abbr href="https://a.example/">',
            "<p title='<a href=\"https://a.example/\">'>",
        ),
        *('<?php <a href="https://a.example/" ', '<plaintext><a href="https://a.example/">', "https://a.example/"),
        '<a href="https://a.example/' + "x" * MAX_TARGET + '">',
        '<a href="https://a.example/\ud800">',
        "",
    ],
)
def test_links_that_are_left_alone(html: str) -> None:
    assert tracked(html) == html


def test_what_the_senders_own_unsubscribe_header_names_stays() -> None:
    html = '<a href="https://a.example/leave?x=1&amp;y">'
    assert track(html, CLICKS, ORG, EMAIL, leave=["https://a.example/leave?x=1&y"]) == html
    assert track(html, CLICKS, ORG, EMAIL, leave=["https://a.example/"]) != html


@pytest.mark.parametrize(
    ("html", "before"),
    [
        ("<body><p>x</p></body></html>", "</body></html>"),
        ("<p>x</BODY >\n", "</BODY >\n"),
        ("<p>x</html>", "</html>"),
        ("<p>x</p>\n", ""),
        ("<p>x</p><!-- open", "<!-- open"),
        ("<p>x</p><style>p{}", "<style>p{}"),
        ('<p>x</p><a href="', '<a href="'),
        ("<body>1</body><body>2</body>", "</body>"),
        ("<p><!-- </body> --></p>", ""),
    ],
)
def test_where_the_image_goes(html: str, before: str) -> None:
    image = _PIXEL.search(tracked(html, BOTH))
    assert image is not None
    assert tracked(html, BOTH) == html[: len(html) - len(before)] + image[0] + before


def test_limits() -> None:
    html = '<a href="https://a.example/">' * (MAX_LINKS + 5)
    assert len(targets(html)) == MAX_LINKS
    assert tracked(html, BOTH).endswith('border:0">'), "the image comes in any case"
    large = "x" * MAX_HTML + '<a href="https://a.example/">'
    assert tracked(large, BOTH) == large
    assert tracked("<p>", Tracking("https://links.example", KEY, False, False)) == "<p>"


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize(
    "unit",
    [
        *(
            "<!--",
            "<a ",
            '<a href="',
            "<style>",
            "<script><!--",
            '<a b=">',
            "<![CDATA[",
            "<a =",
            '<a href="&amp;',
            "</script",
        ),
        *(
            "<script><!-- </script>",
            "<a x = x = ",
            "<a" + " " * 50,
            "<p title='>",
            "<!-->",
            "</body",
            "&#9999999999",
            "<a href='",
        ),
        "<a href=https://a.example/&#" + "9" * 900 + ">",
    ],
)
def test_markup_made_to_cost_time_costs_no_more_than_its_length(unit: str) -> None:
    html = (unit * (400_000 // len(unit) + 1))[:400_000]
    assert len(_PIXEL.findall(tracked(html, BOTH))) == 1


# ---- the meaning of the mail stays -----------------------------------------------------------------------------------

_FRAGMENTS = st.sampled_from(
    [
        *(
            '<a href="https://a.example/?x=1&amp;y=2">',
            "<a href='https://b.example/'>",
            "<a href=http://c.example/>",
            "</a>",
        ),
        *(
            "<area href=https://d.example>",
            '<a data-no-track href="http://n.example">',
            '<A\nHREF = "HTTP://E.example/é">',
        ),
        *(
            "<!-- ",
            "-->",
            "<!--[if mso]>",
            "<![endif]-->",
            "<style>",
            "</style>",
            "<script>",
            "</script>",
            "<title>",
            "</title>",
        ),
        *(
            '<p title="a>b">',
            "<p '>",
            '"',
            "'",
            "<",
            ">",
            "=",
            "/",
            " ",
            "&",
            "<a",
            " href",
            "<br/>",
            "</body>",
            "</html>",
        ),
        *("text ü", "\0", "\r\n", "{{", "<?x", "<!x", "</textarea>", "<textarea>", "--!>", "<!-->", "<!--->", "\ud800"),
        '<a href="http://1.example" href="http://2.example">',
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_FRAGMENTS, max_size=25).map("".join) | st.text(alphabet="<>a/\"'= href:!-&;x\n", max_size=60))
def test_everything_but_links_stays_as_it_is(html: str) -> None:
    """Whatever the markup: with each link put back to where it stands in the original, the bytes are the original's."""
    new = tracked(html, BOTH)
    assert new == tracked(html, BOTH)
    if html:
        assert len(_PIXEL.findall(new)) == 1
    new = _PIXEL.sub("", new)
    old, back, at = html, [], 0
    for link in _TRACKED.finditer(new):
        same = new[at : link.start()]
        assert old.startswith(same)
        old = old[len(same) :]
        found = read_click([KEY], link[1])
        assert found is not None
        value = next(
            (
                old[:n]
                for n in range(len(old) + 1)
                if target(unescape(old[:n]).strip(" \t\n\f\r")) == found.url and _ends(old, n)
            ),
            None,
        )
        assert value is not None, "the link leads elsewhere"
        back.append(value)
        old, at = old[len(value) :], link.end()
    assert old == new[at:]


def _ends(text: str, n: int) -> bool:
    """A value of an attribute may end here."""
    return n == len(text) or text[n] in "\"'> \t\n\f\r"


class _Meaning(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[object] = []
        self.hrefs: list[str | None] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img" and any(name == "src" and value and "/track/open/" in value for name, value in attrs):
            return
        self.hrefs += [value for name, value in attrs if name == "href"]
        self.seen.append((tag, [each for each in attrs if each[0] != "href"]))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append("/" + tag)

    def handle_data(self, data: str) -> None:
        if self.seen and isinstance(self.seen[-1], list):
            self.seen[-1][0] += data
        else:
            self.seen.append([data])

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.seen.append(("decl", decl))

    def unknown_decl(self, data: str) -> None:
        self.seen.append(("unknown", data))


_ATTRIBUTES = st.lists(
    st.sampled_from(
        [
            *(
                'href="https://a.example/?x=1&amp;y=2"',
                "href='https://b.example/'",
                "href=http://c.example/",
                'title="a>b"',
            ),
            *(
                'class="x y"',
                "hidden",
                'href="mailto:a@b.example"',
                "data-x='<!--'",
                'style="color:red"',
                "data-no-track",
            ),
        ]
    ),
    max_size=3,
    unique_by=lambda attribute: attribute[:4],
)


@st.composite
def _documents(draw: st.DrawFn, depth: int = 3) -> str:
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "element", "comment", "raw", "void"]))
        name = draw(st.sampled_from(["a", "A", "p", "div", "td", "area"]))
        attributes = "".join(" " + each for each in draw(_ATTRIBUTES))
        if kind == "text":
            parts.append(draw(st.sampled_from(["Hello ", "a &lt; b ", "ü", "\n", "&copy=1 "])))
        elif kind == "comment":
            parts.append(
                f"<!--{draw(st.sampled_from(['x', '[if mso]><a href=https://z.example><![endif]', '<style>']))}-->"
            )
        elif kind == "raw":
            parts.append("<style>p > a {} /* <a href=https://z.example> */</style>")
        elif kind == "void":
            parts.append(f"<br{attributes}>")
        else:
            inner = draw(_documents(depth=depth - 1)) if depth else ""
            parts.append(f"<{name}{attributes}>{inner}</{name}>")
    return "".join(parts)


@settings(max_examples=300, deadline=None)
@given(_documents())
def test_a_reader_sees_the_same_document(html: str) -> None:
    before, after = _Meaning(html), _Meaning(tracked(html, BOTH))
    assert before.seen == after.seen
    assert len(before.hrefs) == len(after.hrefs)
    for old, new in zip(before.hrefs, after.hrefs, strict=True):
        assert new == old or (new or "").startswith("https://links.example/track/click/")


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_says_what_was_put_in_and_nothing_else_is_believed() -> None:
    token = click_url(CLICKS, ORG, EMAIL, "https://a.example/").rpartition("/")[2]
    found = read_click([b"o" * 32, KEY], token)
    assert found is not None and (found.org_id, found.email_id, found.url) == (ORG, EMAIL, "https://a.example/")
    assert read_click([b"o" * 32], token) is None
    assert read_open([KEY], token) is None and read_unsubscribe([KEY], token) is None
    opened = open_url(CLICKS, ORG, EMAIL).rpartition("/")[2]
    assert read_click([KEY], opened) is None
    octets = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    for at in range(len(octets)):
        for bit in (1, 128):
            changed = bytearray(octets)
            changed[at] ^= bit
            assert read_click([KEY], base64.urlsafe_b64encode(changed).rstrip(b"=").decode()) is None


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda octets: base64.urlsafe_b64encode(octets).decode()))
def test_no_token_out_of_thin_air(token: str) -> None:
    assert read_click([KEY], token) is None
    assert read_open([KEY], token) is None
    assert read_unsubscribe([KEY], token) is None


def test_a_token_has_one_spelling() -> None:
    for length in range(20, 24):
        token = click_url(CLICKS, ORG, EMAIL, "https://a.example/" + "x" * length).rpartition("/")[2]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        good = [last for last in alphabet if read_click([KEY], token[:-1] + last)]
        assert good == [token[-1]]
        for other in (
            token + "=",
            token + "\n",
            " " + token,
            token + "%",
            token.replace("-", "+") if "-" in token else token + "+",
        ):
            assert read_click([KEY], other) is None


def test_unsubscribing() -> None:
    topic = UUID(int=7)
    token = unsubscribe_token(KEY, ORG, "Ann@Example.COM", list_id=topic, email_id=EMAIL)
    found = read_unsubscribe([KEY], token)
    assert found is not None
    assert (found.org_id, found.email_id, found.list_id, found.recipient) == (ORG, EMAIL, topic, "ann@example.com")
    default = read_unsubscribe([KEY], unsubscribe_token(KEY, ORG, "a@b.example"))
    assert default is not None and (default.list_id, default.email_id) == (ALL, ALL)
    headers = unsubscribe_headers("https://links.example", token)
    assert headers == {
        "List-Unsubscribe": f"<https://links.example/unsubscribe?token={token}>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }
    # RFC 8058 §4: the signature must cover both
    assert {name.lower().encode() for name in headers} <= set(OVERSIGNED)


def test_scanning_stops_at_its_limit() -> None:
    assert [link.url for link in scan("<a href=x><a href=y>", most=1).links] == ["x"]
    assert scan("<a href=x>", most=0).links == []
