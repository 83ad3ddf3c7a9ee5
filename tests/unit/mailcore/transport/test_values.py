from __future__ import annotations

import pytest

from mailcore.smtp.outcome import Result
from mailcore.smtp.reply import Reply
from mailcore.transport.base import Mail, Timeouts
from mailcore.transport.envelope import unsendable
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
        pipelining=True, starttls=True, eight_bit=True, size=True, auth=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"})
    )
    assert Capabilities.of(["mx.test PIPELINING SIZE"]) == Capabilities(), "the first line is a name"
    assert Capabilities.of([]) == Capabilities()


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
    assert (unsendable(Mail("", address, b"")) is None) == well_formed
