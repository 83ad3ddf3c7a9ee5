"""The lab: real servers as receiving MX, each relaying what it took to a server of ours, where it is looked at octet by octet."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes import mtas
from fakes.smtp_server import Caught, SmtpServer
from mailcore.smtp.dsn import DsnRequest, Notify, Ret
from mailcore.smtp.outcome import Result
from mailcore.transport import Destination, Hop, Mail, TlsPolicy
from peers import peer

from .harness import certificate, certificate_file, deliver, until

SERVERS = {"postfix": ("postfix", mtas.postfix), "exim": ("exim4", mtas.exim), "opensmtpd": ("smtpd", mtas.opensmtpd)}
CHUNKING = ("postfix", "exim")
HEAD = "From: Us <us@ours.test>\r\nTo: bob@peer.test\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\nMessage-ID: <%s@ours.test>\r\n"
DOTS = ".\r\n..\r\n.a line that begins with a dot\r\n" + "x" * 998 + "\r\nFrom here on\r\n\r\n.\r\nthe end\r\n"


@dataclass
class Lab:
    name: str
    port: int
    sink: SmtpServer

    def destination(self, **changes: object) -> Destination:
        hop = Hop("mx0.test", ("127.0.0.1",), self.port)
        return replace(Destination(self.name, (hop,), tls_context=certificate("mx0.test", rsa_bits=2048)[1]), **changes)  # type: ignore[arg-type]

    async def relayed(self, name: str) -> Caught:
        """The mail with that Message-ID, once the server has passed it on."""
        mark = f"Message-ID: <{name}@ours.test>\r\n".encode()
        await until(lambda: any(mark in caught.content for caught in self.sink.caught))
        (found,) = [caught for caught in self.sink.caught if mark in caught.content]
        return found


@contextmanager
def _folder() -> Iterator[Path]:
    """These servers change to users of their own, who must be able to pass through."""
    folder = Path(tempfile.mkdtemp(prefix="postroom-lab-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module", params=list(SERVERS))
async def lab(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    program, start = SERVERS[request.param]
    peer(program)
    if os.geteuid() != 0:
        pytest.skip(f"{request.param} is started as root only")
    sink = SmtpServer(extensions=("PIPELINING", "8BITMIME", "SIZE 50000000", "SMTPUTF8", "DSN"))
    async with sink:
        with (
            _folder() as folder,
            start(folder / "mx", sink.port, certificate_file("mx0.test", folder, rsa_bits=2048)) as port,
        ):
            yield Lab(request.param, port, sink)


def mail(name: str, text: str = DOTS, to: str = "bob@peer.test", subject: str = "x") -> Mail:
    content = HEAD % name + f"Subject: {subject}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    return Mail("b+1@ours.test", to, f"{content}Content-Transfer-Encoding: 8bit\r\n\r\n{text}".encode(), name)


def parts(content: bytes) -> tuple[bytes, bytes]:
    head, _, body = content.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.peer("postfix, exim4, smtpd")
@pytest.mark.parametrize("chunking", [True, False], ids=["as offered", "DATA"])
async def test_mail_arrives_as_it_was_sent(lab: Lab, chunking: bool) -> None:
    """Under TLS, pipelined and in chunks where offered, over four connections; each mail once, its body octet by octet."""
    mails = [mail(f"{lab.name}{chunking}{n}", DOTS * (n % 3) + f"caf\u00e9 {n}\r\n") for n in range(40)]
    run = await deliver(lab.destination(), mails, connections=4, chunking=chunking)
    assert Counter(o.result for o in run.outcomes.values()) == {Result.DELIVERED: 40}
    for outcome in run.outcomes.values():
        # one of them may offer STARTTLS and fail at it: opportunistic then means in clear
        assert outcome.tls is None if lab.name == "opensmtpd" and not outcome.tls else outcome.tls.startswith("TLSv1.")
    said = Counter((line.said or "").split(" ")[0] for o in run.outcomes.values() for line in o.conversation)
    assert said["BDAT"] == (40 if chunking and lab.name in CHUNKING else 0)
    assert said["DATA"] == 40 - said["BDAT"]
    for each in mails:
        relayed = await lab.relayed(str(each.key))
        assert parts(relayed.content)[1] == parts(each.content)[1]
        assert relayed.mail_from == "b+1@ours.test"


@pytest.mark.peer("postfix, exim4, smtpd")
@pytest.mark.parametrize("chunking", [True, False], ids=["as offered", "DATA"])
async def test_a_large_mail(lab: Lab, chunking: bool) -> None:
    big = mail(f"{lab.name}big{chunking}", ("." * 70 + "\r\n") * 12_000)
    run = await deliver(lab.destination(), [big, mail(f"{lab.name}behind{chunking}")], chunking=chunking)
    assert {o.result for o in run.outcomes.values()} == {Result.DELIVERED}
    assert parts((await lab.relayed(str(big.key))).content)[1] == parts(big.content)[1]


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_refusals_leave_the_others_alone(lab: Lab) -> None:
    mails = [mail(f"{lab.name}r{n}", to="bob@peer.test" if n % 2 else f"nobody{n}@peer.test") for n in range(6)]
    run = await deliver(lab.destination(), mails)
    results = [run[str(each.key)].result for each in mails]
    assert results == [Result.BOUNCED, Result.DELIVERED] * 3
    assert {run[str(each.key)].reply.code for each in mails[::2]} == {550}
    opened = [each for each in mails if any(line.said == "EHLO ours.test" for line in run[str(each.key)].conversation)]
    assert [each.key for each in opened] == [mails[0].key], "one connection"


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_a_mail_beyond_the_servers_size(lab: Lab) -> None:
    run = await deliver(lab.destination(), [mail(f"{lab.name}huge", "x" * 70 + "\r\n" * mtas.MAX_SIZE)])
    outcome = run[f"{lab.name}huge"]
    assert (outcome.result, outcome.rule, outcome.reply.enhanced) == (Result.FAILED, "size", "5.3.4")
    assert not any((line.said or "").startswith("MAIL") for line in outcome.conversation)


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_an_address_beyond_ascii(lab: Lab) -> None:
    run = await deliver(lab.destination(), [mail(f"{lab.name}utf8", to="b\u00f6b@peer.test")])
    outcome = run[f"{lab.name}utf8"]
    if lab.name == "postfix":
        assert outcome.result is Result.DELIVERED
        assert (await lab.relayed(f"{lab.name}utf8")).rcpt_to == ["b\u00f6b@peer.test"]
    else:
        assert (outcome.result, str(outcome.reply)[:9]) == (Result.FAILED, "553 5.6.7")


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_dsn_parameters_are_understood(lab: Lab) -> None:
    """Each passes them on to the next server as we said them to it."""
    asked = DsnRequest(Ret.HDRS, "id=7+x", frozenset({Notify.FAILURE, Notify.DELAY}), orcpt="old+tag@else.test")
    name = f"{lab.name}dsn"
    run = await deliver(lab.destination(), [replace(mail(name), dsn=asked)])
    assert (run[name].result, run[name].dsn) == (Result.DELIVERED, True)
    said_mail, said_rcpt = (await lab.relayed(name)).opening
    assert "RET=HDRS" in said_mail.upper()
    assert "ENVID=id+3D7+2Bx" in said_mail
    assert "ORCPT=rfc822;old+2Btag@else.test" in said_rcpt
    notify = next(word for word in said_rcpt.split() if word.startswith("NOTIFY="))
    assert set(notify.removeprefix("NOTIFY=").split(",")) == {"FAILURE", "DELAY"}


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_tls_is_verified_where_it_is_required(lab: Lab) -> None:
    name = f"{lab.name}tls"
    run = await deliver(lab.destination(), [mail(name)])
    works = run[name].tls is not None
    assert works or lab.name == "opensmtpd"
    run = await deliver(lab.destination(tls=TlsPolicy.REQUIRED), [mail(name + "1")])
    assert run[name + "1"].result is (Result.DELIVERED if works else Result.DEFERRED)
    run = await deliver(lab.destination(tls=TlsPolicy.REQUIRED, tls_context=None), [mail(name + "2")])
    assert (run[name + "2"].result, run[name + "2"].rule) == (Result.DEFERRED, "tls-failed")
