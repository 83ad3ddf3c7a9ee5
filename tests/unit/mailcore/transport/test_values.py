from __future__ import annotations

from collections.abc import Callable

import pytest

from mailcore.smtp.dsn import DsnRequest, Notify, Ret
from mailcore.smtp.outcome import Result
from mailcore.smtp.reply import Reply
from mailcore.transport.base import Mail, Timeouts
from mailcore.transport.envelope import Unsendable, check, opening
from mailcore.transport.outcomes import result_of
from mailcore.transport.session import Capabilities


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (250, Result.DELIVERED),
        (251, Result.DELIVERED),
        (354, Result.DEFERRED),
        (421, Result.DEFERRED),
        (452, Result.DEFERRED),
        (500, Result.BOUNCED),
        (552, Result.BOUNCED),
        (554, Result.BOUNCED),
        (0, Result.DEFERRED),
        (999, Result.DEFERRED),
    ],
)
def test_the_class_of_a_reply(code: int, result: Result) -> None:
    assert result_of(Reply(code, "x")) is result


def test_timeouts_are_the_rfcs_and_scale() -> None:
    whole = Timeouts()
    # RFC 5321 §4.5.3.2
    assert (whole.greeting, whole.mail, whole.rcpt, whole.data, whole.block, whole.dot) == (
        300,
        300,
        300,
        120,
        180,
        600,
    )
    assert whole.scaled(0.5).dot == 300
    assert whole.scaled(1) == whole


def test_capabilities() -> None:
    lines = [
        "mx.test PIPELINING",
        "pipelining",
        "SIZE 10",
        "8BITMIME",
        "auth plain Login",
        "AUTH=CRAM-MD5",
        "",
        "STARTTLS",
    ]
    able = Capabilities.of(lines)
    assert able == Capabilities(
        pipelining=True,
        starttls=True,
        eight_bit=True,
        size=True,
        max_size=10,
        auth=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"}),
    )
    assert Capabilities.of(["mx.test PIPELINING SIZE"]) == Capabilities(), "the first line is a name"
    assert Capabilities.of([]) == Capabilities()
    rest = Capabilities.of(["mx.test", "CHUNKING", "DSN", "REQUIRETLS", "SMTPUTF8", "LIMITS RCPTMAX=1 MAILMAX=20 X"])
    assert rest == Capabilities(chunking=True, dsn=True, requiretls=True, smtputf8=True, max_mails=20)


@pytest.mark.parametrize("said", ["SIZE", "SIZE 0", "SIZE x", "SIZE -1", "SIZE \u0662", "SIZE " + "9" * 50])
def test_a_size_that_limits_nothing(said: str) -> None:
    """RFC 1870 §3: 0 and nothing mean no fixed limit; what is no number means nothing either."""
    peer = Capabilities.of(["mx.test", said])
    assert (peer.size, peer.max_size) == (True, None)
    assert Capabilities.of(["mx.test", "LIMITS MAILMAX=0"]).max_mails is None


@pytest.mark.parametrize(
    ("address", "well_formed"),
    [
        ("a@b.test", True),
        ("bounce+x=y@b.test", True),
        ('"a b"@b.test', True),
        ('"a\\"b"@b.test', True),
        ("jos\u00e9@b.test", True),
        ("a@[IPv6:::1]", True),
        ("a@b@c.test", True),  # odd, but no danger to the frame
        ("a", False),
        ("@b", False),
        ("a@", False),
        ("a b@c", False),
        ("a@b c", False),
        ("a@b>", False),
        ("<a@b", False),
        ('"a"b"@c', False),
        ("a@b\r\n", False),
        ("a@b\n", False),
        ('"a\r\nb"@c', False),
        ("a\x85@b", False),
        ("a\ud800@b", False),
        ("a@b\x00", False),
    ],
)
def test_addresses(address: str, well_formed: bool) -> None:
    assert (_refused(lambda: check(Mail("", address, b""))) is None) == well_formed


def _refused(ask: Callable[[], object]) -> Unsendable | None:
    try:
        ask()
    except Unsendable as error:
        return error
    return None


PLAIN = b"Subject: x\r\n\r\nbody\r\n"
EIGHT = "Subject: x\r\n\r\nb\u00f6dy\r\n".encode()
UTF8_HEADER = "To: j\u00f6rg@b.test\r\n\r\nbody\r\n".encode()
OLD_HEADER = b"Subject: f\xfcr\r\n\r\nbody\r\n"
ALL = Capabilities(eight_bit=True, smtputf8=True, size=True, dsn=True, requiretls=True)


@pytest.mark.parametrize(
    ("content", "to", "without", "said"),
    [
        (PLAIN, "b@c.test", "", " SIZE=20"),
        (PLAIN[:-2], "b@c.test", "", " SIZE=20"),
        (EIGHT, "b@c.test", "8bitmime", " SIZE=21 BODY=8BITMIME"),
        (PLAIN, "j\u00f6rg@c.test", "smtputf8 5.6.7", " SIZE=20 SMTPUTF8"),
        (UTF8_HEADER, "b@c.test", "smtputf8 5.6.9", " SIZE=26 BODY=8BITMIME SMTPUTF8"),
        (OLD_HEADER, "b@c.test", "8bitmime", " SIZE=22 BODY=8BITMIME"),
    ],
)
def test_what_a_mail_asks_of_its_peer(content: bytes, to: str, without: str, said: str) -> None:
    mail = Mail("a@b.test", to, content)
    assert opening(mail, ALL) == (f"MAIL FROM:<a@b.test>{said}", f"RCPT TO:<{to}>")
    refused = _refused(lambda: opening(mail, Capabilities()))
    if not without:
        assert refused is None
        assert opening(mail, Capabilities()).mail_from == "MAIL FROM:<a@b.test>"
    else:
        assert refused is not None
        assert without in (refused.rule, f"{refused.rule} {refused.reply.enhanced}")
        assert refused.reply.code == (553 if "smtputf8" in without else 554)


def test_smtputf8_needs_8bitmime_too() -> None:
    """RFC 6531 §3.1 item 8: who offers one offers the other; one that does not is not trusted with it."""
    refused = _refused(lambda: opening(Mail("", "j\u00f6rg@c.test", PLAIN), Capabilities(smtputf8=True)))
    assert refused is not None
    assert refused.rule == "smtputf8"


def test_a_size_beyond_the_peers_is_not_sent() -> None:
    mail = Mail("", "b@c.test", PLAIN)
    assert opening(mail, Capabilities(size=True, max_size=20))
    refused = _refused(lambda: opening(mail, Capabilities(size=True, max_size=19)))
    assert refused is not None
    assert (refused.rule, refused.reply.code, refused.reply.enhanced) == ("size", 552, "5.3.4")


def test_dsn_parameters_only_where_they_are_known() -> None:
    asked = DsnRequest(Ret.HDRS, "id=1 +", frozenset({Notify.FAILURE, Notify.DELAY}), "rfc822", "old+tag@b.test")
    mail = Mail("a@b.test", "b@c.test", PLAIN, dsn=asked)
    assert opening(mail, Capabilities(dsn=True)) == (
        "MAIL FROM:<a@b.test> RET=HDRS ENVID=id+3D1+20+2B",
        "RCPT TO:<b@c.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;old+2Btag@b.test",
    )
    assert opening(mail, Capabilities()) == ("MAIL FROM:<a@b.test>", "RCPT TO:<b@c.test>")


def test_requiretls_is_said_or_the_mail_does_not_go() -> None:
    mail = Mail("a@b.test", "b@c.test", PLAIN, requiretls=True)
    assert opening(mail, Capabilities(requiretls=True)).mail_from.endswith(" REQUIRETLS")
    refused = _refused(lambda: opening(mail, Capabilities()))
    assert refused is not None
    assert refused.reply.enhanced == "5.7.30"
