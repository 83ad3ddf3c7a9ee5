"""A provider's API as a transport, against the seam's promises (mailcore.transport.base): a double of the API, no database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from fakes.provider_api import ProviderApi
from fakes.provider_posts import SETTINGS
from mailcore.kit.ids import uuid7
from mailcore.providers.base import Request
from mailcore.providers.client import Client, NotSent
from mailcore.providers.registry import VENDORS
from mailcore.smtp.outcome import Outcome, Result
from mailcore.store.deliveries import Leased
from mailcore.transport import Destination, Hop, Mail, MailQueue
from outbound.by_provider import ByProvider

MAIL = b"From: us@postroom.test\r\nTo: ada@example.com, bob@example.com\r\nSubject: s\r\n\r\nhello\r\n"


class Setup:
    def __init__(self, api: ProviderApi, client: Client) -> None:
        self.api = api
        sender = VENDORS[api.vendor].model_validate(SETTINGS[api.vendor]).sender(api.url)
        self.transport = ByProvider(sender, client, reports=False)
        self.destination = Destination("way", (Hop("api", ()),))
        self.outcomes: list[tuple[str, Outcome]] = []
        self.asked: list[str] = []
        self.refused: set[str] = set()
        self.mails = MailQueue()

    def put(self, *recipients: str, content: bytes = MAIL, email: UUID | None = None, **more: Any) -> None:
        email, org, octets = email or uuid7(), uuid7(), bytes(content)
        for n, recipient in enumerate(recipients):
            row = Leased(email, n, 1, 1, org, 1, recipient, False, datetime.now(UTC))
            self.mails.put(Mail("b@send.postroom.test", recipient, octets, row, **more))

    async def before_dot(self, mail: Mail) -> bool:
        self.asked.append(mail.rcpt_to)
        assert not any(mail.rcpt_to in taken.recipients for taken in self.api.accepted), (
            "asked before the request leaves"
        )
        return mail.rcpt_to not in self.refused

    async def run(self, connections: int = 2, *, close: bool = True) -> list[tuple[str, Outcome]]:
        if close:
            self.mails.close()
        await self.transport.deliver(
            self.destination,
            self.mails,
            connections=connections,
            before_dot=self.before_dot,
            on_outcome=lambda mail, outcome: self.outcomes.append((mail.rcpt_to, outcome)),
        )
        return self.outcomes


@pytest.fixture(params=["mailgun", "sendgrid", "resend"])
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    client = Client(seconds=5)
    async with ProviderApi(request.param) as api:
        yield Setup(api, client)
    await client.close()


async def test_one_outcome_a_mail_and_leave_is_asked_before_the_request(setup: Setup) -> None:
    setup.put("ada@example.com", "bob@example.com")
    setup.put("cy@example.com")
    outcomes = await setup.run()
    assert sorted(recipient for recipient, _ in outcomes) == ["ada@example.com", "bob@example.com", "cy@example.com"]
    assert {outcome.result for _, outcome in outcomes} == {Result.DELIVERED}
    assert sorted(setup.asked) == sorted(recipient for recipient, _ in outcomes)
    # copies of one email share a request, unless its reports would not tell them apart
    assert len(setup.api.accepted) == (3 if setup.api.vendor == "resend" else 2)


async def test_a_mail_without_leave_does_not_leave(setup: Setup) -> None:
    setup.refused.add("bob@example.com")
    setup.put("ada@example.com", "bob@example.com")
    outcomes = dict(await setup.run())
    assert outcomes["bob@example.com"].rule == "lease-lost" and not outcomes["bob@example.com"].dot_sent
    assert outcomes["ada@example.com"].result is Result.DELIVERED
    assert [taken.recipients for taken in setup.api.accepted] == [["ada@example.com"]]


async def test_what_no_attempt_would_change_fails_without_a_request(setup: Setup) -> None:
    setup.put("no address")
    setup.put("ada@example.com", content=MAIL + b"x" * 30_000_000)
    setup.put("bob@example.com", requiretls=True)
    outcomes = dict(await setup.run())
    assert {recipient: (outcome.result, outcome.rule) for recipient, outcome in outcomes.items()} == {
        "no address": (Result.FAILED, "bad-address"),
        "ada@example.com": (Result.FAILED, "too-large-for-way"),
        "bob@example.com": (Result.FAILED, "requiretls-not-offered"),
    }
    assert setup.api.heard == [] and setup.asked == []


async def test_two_failures_in_a_row_are_the_providers_and_stop_the_rest(setup: Setup) -> None:
    setup.api.status(500, times=2)
    for n in range(4):
        setup.put(f"u{n}@example.com")
    outcomes = await setup.run(connections=1)
    assert [outcome.rule for _, outcome in outcomes][:3] == [None, "way-failing", "way-failing"]
    assert outcomes[2][1].conversation == (), "the third was not tried"
    assert outcomes[3][1].result is Result.DELIVERED, "the next one is the trial"
    assert all(not outcome.dot_sent for _, outcome in outcomes[:3])


async def test_a_gateways_failure_may_hide_a_success(setup: Setup) -> None:
    setup.api.status(504)
    setup.put("ada@example.com")
    ((_, outcome),) = await setup.run()
    assert (outcome.result, outcome.rule, outcome.dot_sent) == (Result.DEFERRED, "reply-lost", True)


async def test_who_asks_for_a_pause_gets_it(setup: Setup) -> None:
    setup.api.answer("rate")
    setup.put("ada@example.com")
    setup.put("bob@example.com")
    loop = asyncio.get_running_loop()
    began = loop.time()
    setup.transport._not_before = 0.0
    outcomes = await setup.run(connections=1)
    assert outcomes[0][1].retry_after and outcomes[0][1].retry_after >= 1.0
    # the second waited as long as the first was told to: at least
    assert loop.time() - began >= 0.9 and outcomes[1][1].result is Result.DELIVERED


async def test_a_pause_ends_with_what_it_kept_waiting(setup: Setup) -> None:
    setup.transport._not_before = asyncio.get_running_loop().time() + 25
    setup.put("ada@example.com")
    running = asyncio.ensure_future(setup.run())
    await asyncio.sleep(0.05)
    assert [mail.rcpt_to for mail in setup.mails.take_all()] == ["ada@example.com"]
    async with asyncio.timeout(10):
        assert await running == [] and setup.api.heard == []


async def test_an_empty_closed_queue_only_tells_the_number_of_connections(setup: Setup) -> None:
    await setup.transport.deliver(
        setup.destination,
        MailQueue(closed=True),
        connections=3,
        before_dot=setup.before_dot,
        on_outcome=lambda *_: None,
    )
    assert setup.transport._most[setup.destination.pool_key] == 3


async def test_whoever_is_cancelled_says_what_became_of_each_mail_it_took(setup: Setup) -> None:
    gate = asyncio.Event()

    async def hold(mail: Mail) -> bool:
        gate.set()
        await asyncio.sleep(60)
        return True

    setup.before_dot = hold  # type: ignore[method-assign]
    setup.put("ada@example.com")
    setup.put("bob@example.com")
    running = asyncio.ensure_future(setup.run(connections=1, close=False))
    await gate.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [(recipient, outcome.rule) for recipient, outcome in setup.outcomes] == [("ada@example.com", "lease-lost")]
    assert [mail.rcpt_to for mail in setup.mails.take_all()] == ["bob@example.com"]


@pytest.mark.parametrize("key", ["Bearer re_very-secret\r\nX: y", "Bearer re_very-secret\u2192"])
async def test_a_header_that_cannot_be_written_is_shown_to_nobody(key: str) -> None:
    """Words of an attempt are for whoever sent the mail; the account may be the operator's."""
    client = Client(seconds=5)
    async with ProviderApi("resend") as api:
        with pytest.raises(NotSent) as raised:
            await client.send(Request("POST", f"{api.url}/emails", {"Authorization": key}, b"{}"))
        assert api.heard == []
    await client.close()
    assert "very-secret" not in raised.value.public
