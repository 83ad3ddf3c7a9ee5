"""The arguments of MAIL and RCPT, replies, connections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inbound_smtp import replies
from inbound_smtp.checks import paths
from inbound_smtp.connections import Connections
from mailcore.kit.errors import Refused, Unavailable
from mailcore.smtp.dsn import Notify, Ret
from mailcore.smtp.reply import Reply


@pytest.mark.parametrize(
    ("argument", "sender"),
    [
        ("FROM:<>", ""),
        ("from:<a@b.example>", "a@b.example"),
        ("FROM: <A.b@B.Example>", "A.b@b.example"),
        ('FROM:<"a b"@c.example>', '"a b"@c.example'),
        ("FROM:<root@localhost>", "root@localhost"),
        ("FROM:<a=b_c@under_score.example>", "a=b_c@under_score.example"),
        ("FROM:<a@[192.0.2.1]>", "a@[192.0.2.1]"),
    ],
)
def test_senders(argument: str, sender: str) -> None:
    assert paths.mail(argument).sender == sender


def test_parameters_of_mail() -> None:
    asked = paths.mail("FROM:<a@b.example> SIZE=7 Body=8BitMime SMTPUTF8")
    assert (asked.size, asked.body_8bit, asked.smtputf8) == (7, True, True)


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        ("TO:<a@B.Example>", "a@b.example"),
        ('TO:<"a"@b.example>', "a@b.example"),
        ('TO:<"a b"@b.example>', '"a b"@b.example'),
        ("TO:<a+tag@münchen.example>", "a+tag@xn--mnchen-3ya.example"),
    ],
)
def test_recipients(argument: str, address: str) -> None:
    found, bracketed = paths.recipient(argument, smtputf8=False, hostname="mx.test")
    assert (str(found.address), bracketed) == (address, True)


@given(st.text(alphabet=st.sampled_from(list('<>@%!:"\\[]., ab1=\x00\xff')), max_size=30), st.booleans())
def test_no_path_breaks_the_reader_or_smuggles_a_hop(text: str, smtputf8: bool) -> None:
    try:
        found, _ = paths.recipient("TO:" + text, smtputf8=smtputf8, hostname="mx.test")
        address = found.address
    except paths.Refusal as refusal:
        assert refusal.reply.permanent
    else:
        assert not set("%!@:") & set(address.local)
        assert "\0" not in str(address)
    try:
        sender = paths.mail("FROM:" + text).sender
    except paths.Refusal as refusal:
        assert refusal.reply.permanent
    else:
        assert "\0" not in sender
        assert "\0" not in sender and not set("<>") & set(sender.partition('"')[0])


def test_connections_are_counted_by_network() -> None:
    connections = Connections(total=10, per_ip=2)
    assert [connections.enter(ip) for ip in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")] == [
        *(True, True, False, True)
    ]
    connections.leave("2001:db8::2")
    assert connections.enter("2001:db8::4")
    assert [connections.enter(ip) for ip in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1")] == [True, True, False]
    assert connections.count == 5


def test_replies() -> None:
    assert replies.octets(Reply(250, "a\nb", "2.0.0")) == b"250-2.0.0 a\r\n250 2.0.0 b\r\n"
    assert replies.octets(Reply(550, "é\r\n250 ok", "5.7.1")) == b"550-5.7.1 \\xe9\r\n550 5.7.1 250 ok\r\n"
    assert str(replies.from_error(Unavailable("Later."))) == "451 4.3.0 Later."
    assert str(replies.from_error(Refused("No.", code=554, enhanced="5.6.0"))) == "554 5.6.0 No."
    assert str(replies.from_error(KeyError("x"))).startswith("451 4.3.0")


def test_what_a_sender_wants_to_be_told() -> None:
    """RFC 3461 §4, where it is offered."""
    asked = paths.mail("FROM:<a@b.example> RET=hdrs ENVID=QQ+2B1", dsn=True)
    assert (asked.ret, asked.envid) == (Ret.HDRS, "QQ+1")
    found = paths.destination("TO:<a@b.example> NOTIFY=success,FAILURE ORCPT=rfc822;a+2Bx@b.example")
    assert (found.notify, found.orcpt) == (frozenset((Notify.SUCCESS, Notify.FAILURE)), ("rfc822", "a+x@b.example"))
    assert paths.destination("TO:<a@b.example>").notify == frozenset()
    for argument in (
        "FROM:<a@b.example> RET=ALL",
        "FROM:<a@b.example> ENVID=a+b",
        "FROM:<a@b.example> RET=FULL RET=FULL",
    ):
        with pytest.raises(paths.Refusal) as refused:
            paths.mail(argument, dsn=True)
        assert refused.value.reply.code == 501
    with pytest.raises(paths.Refusal) as refused:
        paths.mail("FROM:<a@b.example> RET=FULL")  # not offered by the MX
    assert refused.value.reply.code == 555
    for argument in (
        "NOTIFY=",
        "NOTIFY=NEVER,DELAY",
        "NOTIFY=SOON",
        "ORCPT=a@b.example",
        "ORCPT=rfc822;a=b",
        "ORCPT=rfc822;+0A",
    ):
        with pytest.raises(paths.Refusal) as refused:
            paths.destination(f"TO:<a@b.example> {argument}")
        assert refused.value.reply.code == 501
