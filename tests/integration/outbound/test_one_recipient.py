"""A provider that does not report of whom gets a request for each recipient; a report that leaves it open moves nobody's mail."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import pytest

from fakes.provider_api import ProviderApi, Taken
from fakes.provider_posts import fixture, signed_post
from fakes.smtp_server import SmtpServer
from integration.outbound.test_ways import Run, Setup, by, setup, types
from mailcore.flow.submit import NewEmail
from mailcore.smtp.address import parse_mailbox

__all__ = ["setup"]


def resend_event(kind: str, taken: Taken) -> dict[str, Any]:
    """As Resend makes it: about the mail, with all that its request had in `to`, however few of them it is about."""
    body: dict[str, Any] = fixture("resend", "events")[kind]["body"]
    body["data"]["to"] = taken.body["to"]
    body["data"]["tags"]["postroom"] = taken.reference
    return body


def ses_complaint(email_id: UUID, *recipients: str) -> dict[str, Any]:
    body: dict[str, Any] = fixture("ses", "events")["complained"]["body"]
    body["complaint"]["complainedRecipients"] = [{"emailAddress": each} for each in recipients]
    body["mail"]["tags"]["postroom"] = [email_id.hex]
    return body


async def post(setup: Setup, way: UUID, vendor: str, body: dict[str, Any], id_: str) -> int:
    return (await setup.reports.take(way, signed_post(vendor, body, at=time.time(), id_=id_))).events


async def suppressed(setup: Setup) -> list[tuple[str, str]]:
    rows = await setup.tenant.admin.fetch("SELECT email, origin FROM suppressions ORDER BY email")
    return [(row["email"], row["origin"]) for row in rows]


async def test_what_resend_reports_of_one_recipient_is_no_others(setup: Setup, outbound: Run, sink: SmtpServer) -> None:
    tenant, people = setup.tenant, ["ada@example.com", "bob@example.com", "cy@example.com"]
    async with ProviderApi("resend") as api:
        way = await setup.way("resend")
        await setup.route(way)
        api.cut()  # one of the three is asked for again
        async with outbound(sink, **by(api)):
            email = await tenant.send(*people)
            for n in range(3):
                await tenant.state(email, "relayed", n)
    # each recipient a request, and the one that was repeated has the key of its first
    assert {tuple(each.recipients) for each in api.accepted} == {(each,) for each in people}
    assert len(api.accepted) == 4 and len({each.key for each in api.accepted}) == 3
    requests = {each.recipients[0]: each for each in api.accepted}

    assert await post(setup, way, "resend", resend_event("bounced", requests[people[0]]), "1") == 1
    assert await post(setup, way, "resend", resend_event("delivered", requests[people[1]]), "2") == 1
    assert await post(setup, way, "resend", resend_event("complained", requests[people[2]]), "3") == 1
    states = [(await tenant.delivery(email, n))["state"] for n in range(3)]
    assert states == ["bounced", "delivered", "delivered"]
    assert await suppressed(setup) == [("ada@example.com", "bounce"), ("cy@example.com", "complaint")]


async def test_to_of_a_mail_through_resend_is_who_gets_it_with_his_name(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi("resend") as api:
        way = await setup.way("resend")
        await setup.route(way)
        async with outbound(sink, **by(api)):
            to, cc, bcc = ["Ada <ada@example.com>"], ["Bob <bob@example.com>"], ["cy@example.com"]
            people = [parse_mailbox(each).address for each in (*to, *cc, *bcc)]
            new = NewEmail("us@postroom.test", "postroom.test", to, people, subject="s", text="t", cc=cc, bcc=bcc)
            (email,) = (await tenant.submits.submit(tenant.org_id, [new], door="test")).ids
            for n in range(3):
                await tenant.state(email, "relayed", n)
        seats = sorted((each.body["to"], each.body.get("cc"), each.body.get("bcc")) for each in api.accepted)
        assert seats == [
            (["Ada <ada@example.com>"], None, None),
            (["Bob <bob@example.com>"], None, None),
            (["cy@example.com"], None, None),
        ]
        # names come back as they were given
        bob = next(each for each in api.accepted if each.recipients == ["bob@example.com"])
        assert await post(setup, way, "resend", resend_event("bounced", bob), "1") == 1
    assert await suppressed(setup) == [("bob@example.com", "bounce")]


async def test_who_complained_through_ses_is_who_got_that_request(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi("ses") as api:
        await setup.route(await setup.way("ses"))
        async with outbound(sink, **by(api)):
            email = await tenant.send("ada@example.com", "bob@example.com")
            await tenant.state(email, "relayed", 0)
            await tenant.state(email, "relayed", 1)
    assert sorted(each.recipients for each in api.accepted) == [["ada@example.com"], ["bob@example.com"]]
    assert all(b"To: ada@example.com, bob@example.com" in each.body for each in api.accepted), (
        "it goes as it was written"
    )


@pytest.mark.parametrize("kind", ["bounced", "complained", "suppressed", "failed", "delivered", "delayed"])
async def test_a_report_of_one_of_several_moves_and_suppresses_nobody(
    kind: str, setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    vendor = "ses" if kind == "complained" else "resend"
    async with ProviderApi(vendor) as api:
        way = await setup.way(vendor)
        await setup.route(way)
        async with outbound(sink, **by(api)):
            email = await tenant.send("ada@example.com", "bob@example.com")
            await tenant.state(email, "relayed", 0)
            await tenant.state(email, "relayed", 1)
    people = ["ada@example.com", "bob@example.com"]
    of_resend = Taken(people, email.hex, {"to": people})
    body = ses_complaint(email, *people) if vendor == "ses" else resend_event(kind, of_resend)
    assert await post(setup, way, vendor, body, "1") == 2
    assert await post(setup, way, vendor, body, "1") == 0
    assert await suppressed(setup) == [] and types(await tenant.events(email)) == ["email.sent"]
    for n in range(2):
        assert (await tenant.delivery(email, n))["state"] == "relayed"
        # and who looks sees what was said
        first, second = await tenant.attempts(email, n)
        assert (second["outcome"], second["rule"], second["site"]) == ("relayed", "report-unclear", first["site"])
        assert kind in second["reply"] and "does not say of which" in second["reply"]
