"""The reports of real servers that took our mail and could not pass it on: read as they write them, each in its own way.

OpenSMTPD's fields say `5.0.0` of everything: the reason stands in its words.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from mailcore.dsn.classify import classify
from mailcore.dsn.parse import parse
from mailcore.smtp.dsn import DsnRequest, Notify
from mailcore.smtp.outcome import Result
from peers import peer

from .harness import certificate_file, deliver, until
from .test_lab import SERVERS, Lab, _folder, mail

# the bounce goes where all mail of peer.test goes, and comes to an address that the servers take
RETURN_PATH = "bob-return@peer.test"
REFUSALS = {
    "bob1@peer.test": ("550 5.1.1 no such user here", "hard", "no-mailbox"),
    "bob2@peer.test": ("552 5.2.2 over quota", "recipient", "mailbox-full"),
    "bob3@peer.test": ("554 5.7.1 your host is blocked using zen.spamhaus.org", "block", "list-spamhaus"),
    "bob4@peer.test": ("550 No such recipient", "hard", "nobody"),
    "bob5@peer.test": ("550 5.7.26 unauthenticated mail is not accepted", "policy", "authentication-failed"),
}


def _refuse(talk: Talk) -> Step | None:
    refusal = REFUSALS.get(talk.recipient)
    return Step(refusal[0]) if refusal else None


@pytest.fixture(scope="module", params=list(SERVERS))
async def refused(request: pytest.FixtureRequest) -> AsyncIterator[Lab]:
    program, start = SERVERS[request.param]
    peer(program)
    if os.geteuid() != 0:
        pytest.skip(f"{request.param} is started as root only")
    async with SmtpServer({"rcpt": _refuse}, extensions=("PIPELINING", "8BITMIME", "SIZE 50000000")) as sink:
        with (
            _folder() as folder,
            start(folder / "mx", sink.port, certificate_file("mx0.test", folder, rsa_bits=2048)) as port,
        ):
            yield Lab(request.param, port, sink)


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_reports_of_servers_that_took_a_mail(refused: Lab) -> None:
    mails = [replace(mail(f"{n}", "hello\r\n", to=to), mail_from=RETURN_PATH) for n, to in enumerate(REFUSALS)]
    run = await deliver(refused.destination(), mails)
    assert {outcome.result for outcome in run.outcomes.values()} == {Result.DELIVERED}
    await until(lambda: len(refused.sink.caught) >= len(mails))
    found = {}
    for caught in refused.sink.caught:
        assert (caught.mail_from, caught.rcpt_to) == ("", [RETURN_PATH])
        report = parse(caught.content)
        assert report is not None, caught.content.decode("latin-1")
        [one] = report.recipients
        assert one.permanent
        assert one.reply is not None
        kind = classify(one.reply)
        found[one.address] = (kind.category.value, kind.rule)
        assert report.message_id == f"<{list(REFUSALS).index(one.address)}@ours.test>"
    assert found == {to: (category, rule) for to, (_, category, rule) in REFUSALS.items()}


@pytest.mark.peer("postfix, exim4, smtpd")
async def test_a_report_of_success(refused: Lab) -> None:
    """Asked for by NOTIFY, where the next server does not know DSN (RFC 3461 §5.2.2)."""
    before = len(refused.sink.caught)
    asked = DsnRequest(notify=frozenset((Notify.SUCCESS,)), envid="QQ1")
    run = await deliver(
        refused.destination(), [replace(mail("ok", to="bob@peer.test"), mail_from=RETURN_PATH, dsn=asked)]
    )
    [outcome] = run.outcomes.values()
    assert (outcome.result, outcome.dsn) == (Result.DELIVERED, True)
    if refused.name == "opensmtpd":
        return  # it offers DSN, and does not report a relayed mail
    await until(lambda: len(refused.sink.caught) >= before + 2)
    [report] = [found for caught in refused.sink.caught[before:] if (found := parse(caught.content)) is not None]
    [one] = report.recipients
    assert one.action.value == {"postfix": "relayed", "exim": "delivered"}[refused.name]
    assert (one.address, one.permanent, report.envelope_id) == ("bob@peer.test", False, "QQ1")
