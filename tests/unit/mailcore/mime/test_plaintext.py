import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.mime.plaintext import MAX_HTML, html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("Hello", "Hello"),
        ("<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("<p>One\r\n   two\tthree</p>", "One two three"),
        ("<div>One</div><div>Two</div>", "One\nTwo"),
        ("One<br>Two<br/><br />Three", "One\nTwo\n\nThree"),
        ("<b>bo</b>ld <i>it</i>", "bold it"),
        ("a <b> b </b> c", "a b c"),
        ("&lt;b&gt; &amp; &eacute; &#8364; &#x41; &nbsp;x", "<b> & é € A x"),
        ("1 < 2 > 1", "1 < 2 > 1"),
        ("a<!-- <p>no</p> -->b", "ab"),
        ("<!DOCTYPE html><html><head><title>No</title><style>p{}</style></head><body>Yes</body></html>", "Yes"),
        ("<script>if (a</b/) '</p>'</script>Yes", "Yes"),
        ("<SCRIPT>no</SCRIPT >Yes", "Yes"),
        ("<svg/>Yes<svg><title>no</title></svg>", "Yes"),
        ('<a href="https://x.example/a?b=1&amp;c=2">Open</a>', "Open (https://x.example/a?b=1&c=2)"),
        ('See <a href="https://x.example">this page</a>.', "See this page (https://x.example)."),
        ('<a href="https://x.example/">https://x.example/</a>', "https://x.example/"),
        ('<a href="https://x.example/">x.example</a>', "x.example"),
        ('<a href="mailto:a@b.c">a@b.c</a>', "a@b.c"),
        ('<a href="https://x.example"><img src=x></a>', "https://x.example"),
        ('<a href="https://x.example"><img src=x alt="Logo &amp; co"></a>', "Logo & co (https://x.example)"),
        ('<a href="#top">Top</a> <a href="javascript:x()">Go</a> <a name=n>N</a>', "Top Go N"),
        ("<ul><li>One</li><li>Two<ul><li>In</li></ul></li></ul>After", "- One\n- Two\n  - In\n\nAfter"),
        ("<ul><li><p>One</p></li><li><p>Two</p></li></ul>", "- One\n- Two"),
        ("<ol><li>One<li>Two</ol>", "1. One\n2. Two"),
        ("<table><tr><td>A</td><td>B</td></tr><tr><td>C</td></tr></table>", "A B\nC"),
        ("<pre>a  b\n  c</pre>", "a  b\n  c"),
        ("A<hr>B", "A\n---\nB"),
        ('<div style="display:none">preview &zwnj;&nbsp;</div><p>Yes</p>', "Yes"),
        ('<div style="DISPLAY : none"><div>no</div>no</div>Yes', "Yes"),
        ('<div data-skip-in-text="true">no</div>Yes', "Yes"),
        ("a\u200b\ufeffb", "ab"),
        ('<p title="a > b">Yes</p>', "Yes"),
        ("<p title='unclosed>Yes</p>", "Yes"),
        ("<p", ""),
        ("<", "<"),
        ("</", "</"),
        ("a</>b", "a</>b"),
        ("&#" + "9" * 5_000 + ";", "\ufffd"),
    ],
)
def test_text(html: str, text: str) -> None:
    assert html_to_text(html) == text


def test_input_beyond_the_cap_is_cut_off() -> None:
    assert html_to_text("a" * MAX_HTML + "b") == "a" * MAX_HTML


HOSTILE = (
    *(
        "<",
        "<a",
        "<a ",
        "<a x",
        "<a><",
        "<a>x",
        "</a",
        "<!--",
        "<![CDATA[",
        "<a href='",
        '<a href="',
        "<a b='\">",
        "<p>x",
    ),
    *("<script", "<script>", "<svg>", "<ul>", "<ol><li>", "<br>", "<pre>\n", "&", "&#9", "&amp", "a=", " ", "\n\n\n x"),
    *("<a href=http://x>y", '<div style="display:none">', "<p " + "a" * 999),
)


@pytest.mark.usefixtures("linear")
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_repetition_ends_soon(piece: str) -> None:
    html = piece * (MAX_HTML // len(piece))
    assert len(html_to_text(html)) <= 4 * MAX_HTML
    assert len(html_to_text("<p " + html)) <= 4 * MAX_HTML


@given(st.text(max_size=200) | st.text(alphabet="<>/ab!-='\"& \n;#1lipre", max_size=200))
def test_anything_gives_text(html: str) -> None:
    assert isinstance(html_to_text(html), str)


@given(
    st.text(alphabet=st.characters(exclude_characters="<>&", exclude_categories=("C", "Z")), min_size=1, max_size=50)
)
def test_words_stay(word: str) -> None:
    word = word.replace("\u034f", "x")
    assert html_to_text(f"<p>{word}</p><div><b>{word}</b></div>") == f"{word}\n\n{word}"
