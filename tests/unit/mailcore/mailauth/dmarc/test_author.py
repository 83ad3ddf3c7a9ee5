"""Whom a From field names: whatever a person is shown has been looked at (reliability B6; the cases: tests/unit/flow)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailcore.dns.names import normalize_domain
from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.canonical import split_fields
from mailcore.mailauth.dmarc.author import MAX_DOMAINS, authors
from mailcore.mime.parse import Message

PIECES = st.sampled_from(
    [
        *'<>@,:;()"\\. \t[]=?',
        "a",
        "b@c.example",
        "d.example",
        "=?utf-8?q?e=40f.example?=",
        "\r\n ",
        "é",
        "\u3002",
        "\0",
        "'",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join))
@example("b@c.example <a@d.example>")
@example("<@c.example:a@d.example>")
@example('"<a@c.example>"@d.example')
@example("a@c.example(d@d.example")
@example("a@c\u3002example")
def test_nobody_is_shown_who_was_not_looked_at(value: str) -> None:
    head = f"From: {value}\r\n".encode()
    try:
        fields = split_fields(head)
    except Invalid:
        return
    found = authors(fields)
    if found.wrong:
        return
    for one in Message(head + b"\r\n").summary().from_:
        domain = one.address.rpartition("@")[2]
        assert domain.startswith("[") or normalize_domain(domain, underscore=True) in found.domains, (value, found)


@pytest.mark.parametrize(
    ("value", "domains", "wrong"),
    [
        ("a@b.example", ("b.example",), ""),
        ("A <a@B.Example>", ("b.example",), ""),
        ("a@b.example.", ("b.example",), ""),
        ("a@[192.0.2.1]", (), ""),
        ("undisclosed: ;", (), "no address"),
        (", ".join(f"a@b{n}.example" for n in range(MAX_DOMAINS + 1)), (), "more than"),
        ("a@b_c.example", ("b_c.example",), ""),
        ("a@-b.example", (), "no domain"),
        ("a@", (), "no domain"),
        ("x" * 30_000, (), "octets"),
    ],
)
def test_what_is_named(value: str, domains: tuple[str, ...], wrong: str) -> None:
    found = authors([(b"from", b"From: " + value.encode())])
    assert found.domains == domains
    assert wrong in found.wrong if wrong else found.wrong == ""
