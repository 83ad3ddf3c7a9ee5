import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailcore.kit.errors import Invalid
from mailcore.smtp.address import Address, Mailbox, parse_address, parse_mailbox

# reliability.md C1, with DEL and the rest of C0 and C1
CONTROLS = ["\r", "\n", "\r\n", "\x00", "\t", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x7f", "\x85", "\x9b"]
LINE_ENDS = [*CONTROLS, "\u2028", "\u2029", "\ud800", "\udfff"]


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("a@b.c", "a", "b.c"),
        ("Ada.Lovelace+tag@Example.ORG", "Ada.Lovelace+tag", "example.org"),
        ("o'brien@example.org", "o'brien", "example.org"),
        ("a%b!c@example.org", "a%b!c", "example.org"),
        ("a%0d%0ab@example.org", "a%0d%0ab", "example.org"),
        ("a@münchen.example", "a", "xn--mnchen-3ya.example"),
        ("a@XN--MNCHEN-3YA.example", "a", "xn--mnchen-3ya.example"),
        ("a@b--c.example", "a", "b--c.example"),
        ("用户@例え.テスト", "用户", "xn--r8jz45g.xn--zckzah"),
        ("l" * 64 + "@example.org", "l" * 64, "example.org"),
    ],
)
def test_addresses(text: str, local: str, domain: str) -> None:
    address = parse_address(text)
    assert (address.local, address.domain) == (local, domain)
    assert str(address) == address.ascii == f"{local}@{domain}"
    assert parse_address(str(address)) == address
    assert address.smtputf8 is (not local.isascii())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a",
        "a@",
        "@b.c",
        "a@b",
        "a@b.c.",
        "a@b.c。",
        "a@.b.c",
        "a@b..c",
        ".a@b.c",
        "a.@b.c",
        "a..b@b.c",
        "a b@c.d",
        " a@b.c",
        "a@b.c ",
        "a @b.c",
        "a@ b.c",
        "a@b@c.d",
        "a@[192.0.2.1]",
        "a@[IPv6:::1]",
        "a@192.0.2.1",
        "a@-b.c",
        "a@b_c.d",
        "a(comment)@b.c",
        "(comment)a@b.c",
        "a@b.c(comment)",
        "@route.example:a@b.c",
        "Group: a@b.c;",
        "a@b.c;",
        "a@b.c,d@e.f",
        "a;b@c.d",
        "a\\b@c.d",
        "<a@b.c>",
        '"a b"@c.d',
        "l" * 65 + "@example.org",
        "é" * 33 + "@example.org",
        "a@" + ".".join(["d" * 62] * 4) + ".org",
        "\u202egro@b.c",
        "a\u00a0b@c.d",
        "a\u200bb@c.d",
        "a" * 1_000_000 + "@b.c",
        "@" * 1_000_000,
        "a." * 1_000 + "@b.c",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Invalid):
        parse_address(text)


@pytest.mark.parametrize("control", LINE_ENDS)
@pytest.mark.parametrize(
    "form", ["{}a@b.c", "a{}b@b.c", "a@b{}.c", "a@b.c{}", "a@b.c{}RCPT TO:<x@y.z>", '"a{}b"@b.c', '"a\\{}b"@b.c']
)
def test_control_characters_are_refused_everywhere(form: str, control: str) -> None:
    text = form.format(control)
    with pytest.raises(Invalid):
        parse_address(text, allow_quoted=True)
    for mailbox in (
        text,
        f"Name <{text}>",
        f"Na{control}me <a@b.c>",
        f'"Na{control}me" <a@b.c>',
        f"{control}Name <a@b.c>",
    ):
        with pytest.raises(Invalid):
            parse_mailbox(mailbox)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ('"ab"@c.d', "ab"),
        ('"a.b"@c.d', "a.b"),
        ('"\\a\\b"@c.d', "ab"),
        ('"a b"@c.d', '"a b"'),
        ('"a@x"@c.d', '"a@x"'),
        ('"a\\"b"@c.d', '"a\\"b"'),
        ('"a\\\\b"@c.d', '"a\\\\b"'),
        ('".."@c.d', '".."'),
        ('""@c.d', '""'),
        ('"é x"@c.d', '"é x"'),
    ],
)
def test_quoted_local_parts_on_request(text: str, local: str) -> None:
    address = parse_address(text, allow_quoted=True)
    assert address == Address(local, "c.d")
    assert parse_address(str(address), allow_quoted=True) == address
    with pytest.raises(Invalid):
        parse_address(text)


@pytest.mark.parametrize("text", ['"a"b"@c.d', '"a@c.d', 'a"@c.d', '"a\\"@c.d', '"a"."b"@c.d', '"a"@"b.c"'])
def test_broken_quotes(text: str) -> None:
    with pytest.raises(Invalid):
        parse_address(text, allow_quoted=True)


def test_dotless_domains_on_request() -> None:
    assert parse_address("root@LOCALHOST", allow_dotless=True) == Address("root", "localhost")


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a@b.c", "", "a@b.c"),
        (" a@b.c ", "", "a@b.c"),
        ("<a@b.c>", "", "a@b.c"),
        ("Acme <a@b.c>", "Acme", "a@b.c"),
        ("Acme<a@b.c>", "Acme", "a@b.c"),
        ("  Acme Corp  <A@B.c> ", "Acme Corp", "A@b.c"),
        ("Acme, Inc. <a@b.c>", "Acme, Inc.", "a@b.c"),
        ("Acme (EU) <a@b.c>", "Acme (EU)", "a@b.c"),
        ("a@b.c <a@b.c>", "a@b.c", "a@b.c"),
        ('"Lovelace, Ada \\"A\\"" <a@b.c>', 'Lovelace, Ada "A"', "a@b.c"),
        ('"" <a@b.c>', "", "a@b.c"),
        ('"<x@y.z>" <a@b.c>', "<x@y.z>", "a@b.c"),
        ("Zoë 🦊 <a@münchen.example>", "Zoë 🦊", "a@xn--mnchen-3ya.example"),
        ("=?utf-8?q?x?= <a@b.c>", "=?utf-8?q?x?=", "a@b.c"),
        ("%0d%0aBcc: x <a@b.c>", "%0d%0aBcc: x", "a@b.c"),
    ],
)
def test_mailboxes(text: str, name: str, address: str) -> None:
    mailbox = parse_mailbox(text)
    assert (mailbox.name, str(mailbox.address)) == (name, address)
    assert parse_mailbox(str(mailbox)) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "<>",
        "Name <>",
        "Name <a@b.c",
        "Name a@b.c>",
        "Name a@b.c",
        "Name < a@b.c>",
        "Name <a@b.c >",
        "Name <a@b.c> x",
        "Name <a@b.c> (comment)",
        "a@b.c (comment)",
        "Name <<a@b.c>>",
        "Name <x@y.z> <a@b.c>",
        "Name <@route.example:a@b.c>",
        "Name <a@[192.0.2.1]>",
        "a@b.c, d@e.f",
        "a@b.c, Name <d@e.f>",
        "Name <a@b.c>, Other <d@e.f>",
        "a@b.c; Name <d@e.f>",
        "Group: a@b.c;",
        "Group: Name <a@b.c>;",
        "undisclosed-recipients:;",
        '"Name <a@b.c>',
        '"Na"me" <a@b.c>',
        'Na"me <a@b.c>',
        "Na\\me <a@b.c>",
        "n" * 3_000 + " <a@b.c>",
        '"' + "\\" * 1_000_001 + '" <a@b.c>',
    ],
)
def test_what_is_no_mailbox(text: str) -> None:
    with pytest.raises(Invalid):
        parse_mailbox(text)


@given(st.text(max_size=60) | st.text(alphabet='ab@.<>"\\,() é\u202e\r\n', max_size=20))
def test_anything_is_a_mailbox_that_survives_or_invalid(text: str) -> None:
    try:
        mailbox = parse_mailbox(text)
    except Invalid:
        return
    assert parse_mailbox(str(mailbox)) == mailbox


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=40))
def test_every_name_survives(name: str) -> None:
    mailbox = Mailbox(name, Address("a", "b.c"))
    assert parse_mailbox(str(mailbox)) == mailbox


@pytest.mark.parametrize(
    "local",
    [
        "=?utf-8?q?ceo=40bank.test=3e?=",
        "=?utf-8?b?Y2VvQGJhbmsudGVzdA==?=",
        "a=?iso-8859-1?Q?=22?=",
        '"=?utf-8?q?ceo=40bank.test=3e?="',
        "ü=?utf-8?q?=3c?=",
    ],
)
def test_an_encoded_word_is_no_local_part(local: str) -> None:
    """RFC 2047 §5: who decodes before he reads takes it for another's address."""
    for text in (f"{local}@mine.test", f"<{local}@mine.test>", f"Me <{local}@mine.test>"):
        with pytest.raises(Invalid):
            parse_mailbox(text)
    with pytest.raises(Invalid):
        parse_address(f"{local}@mine.test", allow_quoted=True)


@pytest.mark.parametrize("local", ["a=?b", "SRS0=x?=y", "=?a?=", "bounce=?q"])
def test_marks_of_encoded_words_that_are_none(local: str) -> None:
    assert str(parse_mailbox(f"{local}@mine.test").address) == f"{local}@mine.test"
