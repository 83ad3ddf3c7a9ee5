"""Ways out: each provider against a double of its API, failover in order, and what providers report."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.authority import Authority
from fakes.provider_api import ProviderApi
from fakes.provider_posts import CERTIFICATE, SETTINGS, fixture, signed_post
from fakes.smtp_server import SmtpServer, Step
from integration.outbound.harness import Tenant, until
from mailcore.flow import ways as kinds
from mailcore.flow.provider_events import Reports
from mailcore.kit.errors import NotFound, Unavailable
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.providers.base import Forged, Post
from mailcore.providers.client import Client
from mailcore.providers.registry import VENDORS
from mailcore.queue.bell import Ringer
from mailcore.store import sites, ways
from mailcore.store.session import Store
from peers import free_port

Run = Callable[..., AbstractAsyncContextManager[Any]]


class AmazonsCertificate(Client):
    async def fetch(self, url: str) -> bytes:
        return CERTIFICATE


@dataclass
class Setup:
    store: Store
    keyring: Keyring
    tenant: Tenant
    reports: Reports

    async def way(self, kind: str, *, org_id: UUID | None = None, reporting: bool = True, **more: Any) -> UUID:
        given = {**SETTINGS.get(kind, {}), **more}
        if not reporting:
            for name in ("signing_secret", "verification_key", "webhook_password", "topic_arn"):
                given.pop(name, None)
        account = kinds.check(kind, given)
        shown, secrets = kinds.parted(account)
        way_id = uuid7()
        async with self.store.worker() as db:
            site = await sites.ensure(db, f"{kind}:{way_id}", 5)
            await ways.add(
                db,
                way_id=way_id,
                org_id=org_id or self.tenant.org_id,
                name=kind,
                kind=kind,
                settings=shown,
                secrets_sealed=kinds.seal(self.keyring, secrets),
                reports=account.events() is not None,
                site_id=site.id,
            )
        return way_id

    async def route(self, *way_ids: UUID, **conditions: Any) -> UUID:
        route_id = uuid7()
        wanted = {"for_org": None, "domain_id": None, "tag_name": None, "tag_value": None, **conditions}
        async with self.store.worker() as db:
            assert await ways.add_route(db, route_id=route_id, org_id=self.tenant.org_id, ways=way_ids, **wanted)
        return route_id

    async def report(self, way_id: UUID, vendor: str, name: str, email_id: UUID, to: str, id_: str = "1") -> int:
        """The fixture's event about that mail, posted as the vendor posts it."""
        body = json.dumps(fixture(vendor, "events")[name]["body"])
        body = body.replace("0190d0c47ea17c3b9f2a6c1de0f4b8a5", UUID(str(email_id)).hex).replace("ada@example.com", to)
        import time

        return (await self.reports.take(way_id, signed_post(vendor, json.loads(body), at=time.time(), id_=id_))).events


@pytest.fixture
async def setup(store: Store, keyring: Keyring, tenant: Tenant, ringer: Ringer) -> AsyncIterator[Setup]:
    client = AmazonsCertificate()
    yield Setup(store, keyring, tenant, Reports(store, ringer, keyring, client))
    await client.close()


def by(*apis: ProviderApi, **changes: Any) -> dict[str, Any]:
    """Settings of outbound with these doubles in place of the vendors'."""
    providers = {api.vendor: {"base_url": api.url} for api in apis}
    return {"providers": providers, "retry_schedule": [0.2, 0.2, 0.2, 30, 30], "delay_notice_seconds": 0, **changes}


def types(rows: list[asyncpg.Record]) -> list[str]:
    return [row["type"] for row in rows]


# ---- each provider ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_provider_takes_refuses_and_is_tried_again(
    vendor: str, setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi(vendor) as api:
        way = await setup.way(vendor)
        await setup.route(way)
        taken = "delivered" if vendor == "cloudflare" else "relayed"
        async with outbound(sink, **by(api)):
            # accepted
            email = await tenant.send("ada@example.com")
            await tenant.state(email, taken)
            (attempt,) = await tenant.attempts(email)
            assert attempt["site"] == f"{vendor}:{way}" and attempt["mx_host"] == api.url.removeprefix("http://")
            assert attempt["outcome"] == taken and attempt["code"] == 250
            said = [line for _, who, line in attempt["conversation"] if who == "said"]
            assert said[0] == f"[way 1 of 1: {vendor}:{way}]" and said[1].startswith("POST http://127.0.0.1")
            assert [each.recipients for each in api.accepted] == [["ada@example.com"]]
            if vendor != "cloudflare":
                assert api.accepted[0].reference == UUID(str(email)).hex
            if isinstance(api.accepted[0].body, bytes):  # whole: signed by us, octet for octet
                assert api.accepted[0].body.startswith(b"DKIM-Signature:")

            # refused for good, in the provider's words
            refused = {
                "mailgun": "invalid_field",
                "ses": "bad_request",
                "postmark": "invalid_request",
                "cloudflare": "invalid",
            }
            name = refused.get(vendor, "invalid_field")
            api.answer(name)
            email = await tenant.send("bob@example.com")
            await tenant.state(email, "failed")
            (attempt,) = await tenant.attempts(email)
            said_by_vendor = json.dumps(fixture(vendor, "answers")[name]["body"])
            assert attempt["rule"] == "provider-refused" and attempt["reply"].startswith("HTTP 4")
            events = await tenant.events(email)
            assert types(events) == ["email.sent", "email.failed"]
            reason = events[1]["detail"]["failed"]["reason"]
            assert reason == attempt["reply"] and reason.split(": ", 1)[1].split(" ")[-1] in said_by_vendor

            # too many requests, then a failure of its own: tried again
            api.status(429)
            api.status(500)
            email = await tenant.send("cy@example.com")
            await tenant.state(email, taken)
            attempts = await tenant.attempts(email)
            assert [row["outcome"] for row in attempts] == ["deferred", "deferred", taken]
            assert [row["code"] for row in attempts] == [450, 451, 250]
            assert not any(row["possible_duplicate"] for row in attempts)

            # cut after the request: the provider may have it
            before = len(api.accepted)
            api.cut()
            email = await tenant.send("dee@example.com")
            await tenant.state(email, taken)
            first, second = await tenant.attempts(email)
            assert (first["outcome"], first["rule"]) == ("deferred", "reply-lost")
            assert second["possible_duplicate"] and (await tenant.delivery(email))["possible_duplicate"]
            copies = api.accepted[before:]
            assert len(copies) == 2
            if vendor == "resend":  # which tells repeats by the key
                assert copies[0].key == copies[1].key


@pytest.mark.parametrize("vendor", [vendor for vendor in VENDORS if vendor != "cloudflare"])
async def test_what_a_provider_reports_ends_in_our_events_once(
    vendor: str, setup: Setup, outbound: Run, sink: SmtpServer, make_org: Callable[[], Awaitable[UUID]]
) -> None:
    tenant = setup.tenant
    async with ProviderApi(vendor) as api:
        way = await setup.way(vendor)
        await setup.route(way)
        names = ["ada", "bob", "cy"]
        async with outbound(sink, **by(api)):
            mails = {name: await tenant.send(f"{name}@example.com") for name in names}
            for email in mails.values():
                await tenant.state(email, "relayed")
    for email in mails.values():
        assert types(await tenant.events(email)) == ["email.sent"]

    assert await setup.report(way, vendor, "delivered", mails["ada"], "ada@example.com") == 1
    assert await setup.report(way, vendor, "delivered", mails["ada"], "ada@example.com") == 0
    # another post of the same is another id; the delivery has come to its end all the same
    await setup.report(way, vendor, "delivered", mails["ada"], "ada@example.com", id_="2")
    assert (await tenant.delivery(mails["ada"]))["state"] == "delivered"
    assert types(await tenant.events(mails["ada"])) == ["email.sent", "email.delivered"]

    assert await setup.report(way, vendor, "bounced", mails["bob"], "BOB@example.com", id_="3") == 1
    assert (await tenant.delivery(mails["bob"]))["state"] == "bounced"
    events = await tenant.events(mails["bob"])
    assert types(events) == ["email.sent", "email.bounced"]
    assert events[1]["detail"]["bounce"]["type"] == "Permanent" and "5.1.1" in events[1]["detail"]["bounce"]["message"]
    said = (await tenant.attempts(mails["bob"]))[-1]
    assert (said["outcome"], said["rule"], said["enhanced_code"]) == ("bounced", "report", "5.1.1")
    assert said["category"] == "hard"
    assert said["site"] == f"{vendor}:{way}"
    suppressed = await tenant.admin.fetch("SELECT email, origin FROM suppressions ORDER BY id")
    assert [tuple(row) for row in suppressed] == [("bob@example.com", "bounce")]

    # a complaint comes after the delivery, and puts the address on the list
    await setup.report(way, vendor, "complained", mails["cy"], "cy@example.com", id_="4")
    await setup.report(way, vendor, "complained", mails["cy"], "cy@example.com", id_="5")
    assert types(await tenant.events(mails["cy"])) == ["email.sent", "email.complained"]
    assert len(await tenant.admin.fetch("SELECT FROM suppressions WHERE origin = 'complaint'")) == 1

    # who has an account of his own says nothing about others' mail
    stranger = await make_org()
    theirs = await setup.way(vendor, org_id=stranger)
    assert await setup.report(theirs, vendor, "bounced", mails["ada"], "ada@example.com", id_="6") == 0
    # nor does another way of the same organization
    other = await setup.way(vendor)
    assert await setup.report(other, vendor, "bounced", mails["ada"], "ada@example.com", id_="7") == 0
    assert (await tenant.delivery(mails["ada"]))["state"] == "delivered"
    with pytest.raises(Forged):
        await setup.reports.take(way, Post({}, b"{}"))
    with pytest.raises(NotFound):
        await setup.reports.take(uuid7(), Post({}, b"{}"))


async def test_an_answer_that_was_lost_is_found_by_its_report(setup: Setup, outbound: Run, sink: SmtpServer) -> None:
    tenant = setup.tenant
    async with ProviderApi("mailgun") as api:
        way = await setup.way("mailgun")
        await setup.route(way)
        api.cut()
        async with outbound(sink, **by(api, retry_schedule=[3600])):
            email = await tenant.send("ada@example.com")
            await until(lambda: tenant.attempts(email), "the attempt")
        assert (await tenant.queued(email)) is not None
        await setup.report(way, "mailgun", "delivered", email, "ada@example.com")
        assert (await tenant.queued(email)) is None and (await tenant.delivery(email))["state"] == "delivered"
        assert types(await tenant.events(email))[-1] == "email.delivered"
        assert len(api.accepted) == 1


async def test_a_report_that_is_faster_than_our_commit_is_asked_for_again(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi("postmark") as api:
        way = await setup.way("postmark")
        await setup.route(way)
        async with outbound(sink, **by(api)):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "relayed")
        # as it was while the request was under way
        await tenant.admin.execute("DELETE FROM attempts")
        await tenant.admin.execute(
            "INSERT INTO queue (email_id, n, org_id, lane_id, due_at, attempt, worker, leased_at, dot_sent) "
            "SELECT $1, 0, org_id, id, now(), 1, 1, now(), true FROM lanes LIMIT 1",
            email,
        )
        with pytest.raises(Unavailable):
            await setup.report(way, "postmark", "delivered", email, "ada@example.com")
        assert types(await tenant.events(email)) == ["email.sent"]


async def test_recipients_of_one_mail_share_a_request_and_hidden_ones_stay_hidden(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi("postmark") as api:
        await setup.route(await setup.way("postmark"))
        email = await tenant.send("ada@example.com", "bob@example.com")
        async with outbound(sink, **by(api)):
            await tenant.state(email, "relayed", 0)
            await tenant.state(email, "relayed", 1)
    assert [sorted(each.recipients) for each in api.accepted] == [["ada@example.com", "bob@example.com"]]
    assert api.accepted[0].body["To"] == "ada@example.com, bob@example.com"


# ---- failover --------------------------------------------------------------------------------------------------------


async def test_the_first_way_that_works_takes_the_mail(setup: Setup, outbound: Run, sink: SmtpServer) -> None:
    tenant = setup.tenant
    async with ProviderApi("resend") as first, ProviderApi("mailgun") as second:
        ways_ = [await setup.way("resend"), await setup.way("mailgun"), ways.DEFAULT]
        await setup.route(*ways_)
        async with outbound(sink, **by(first, second)):
            # refused for the account: the same mail goes by the next, at once
            first.answer("suspended_key")
            one = await tenant.send("ada@example.com")
            await tenant.state(one, "relayed")
            refused, taken = await tenant.attempts(one)
            assert (refused["site"], refused["outcome"], refused["rule"]) == (
                f"resend:{ways_[0]}",
                "deferred",
                "way-refuses-account",
            )
            assert (taken["site"], taken["outcome"]) == (f"mailgun:{ways_[1]}", "relayed")
            why = next(line for _, who, line in taken["conversation"] if who == "said")
            assert why.startswith(f"[way 2 of 3: mailgun:{ways_[1]}; resting: resend:{ways_[0]} (454 4.7.0 HTTP 403")

            # it is remembered: the next mail does not try the first
            heard = len(first.heard)
            two = await tenant.send("bob@example.com")
            await tenant.state(two, "relayed")
            assert len(first.heard) == heard and len(await tenant.attempts(two)) == 1

            # both down: the installation's own route
            second.status(503)
            three = await tenant.send("cy@example.com")
            await tenant.state(three, "delivered")
            assert [row["outcome"] for row in await tenant.attempts(three)] == ["deferred", "delivered"]
            assert [each.rcpt_to for each in sink.caught] == [["cy@example.com"]]

            # healthy again: the first takes it
            await tenant.admin.execute("UPDATE sites SET failures = 0, suspended_until = NULL")
            four = await tenant.send("dee@example.com")
            await tenant.state(four, "relayed")
            assert [row["site"] for row in await tenant.attempts(four)] == [f"resend:{ways_[0]}"]
    assert [each.recipients for each in second.accepted] == [["ada@example.com"], ["bob@example.com"]]


async def test_a_provider_that_cannot_be_reached_and_one_that_is_switched_off_are_passed_over(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    dead = ProviderApi("sendgrid", url=f"http://127.0.0.1:{free_port()}")  # not begun
    async with ProviderApi("ses") as live:
        off, down, up = await setup.way("postmark"), await setup.way("sendgrid"), await setup.way("ses")
        await tenant.admin.execute("UPDATE ways SET enabled = false WHERE id = $1", off)
        await setup.route(off, down, up)
        async with outbound(sink, **by(dead, live)):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "relayed")
        first, second = await tenant.attempts(email)
        assert (first["site"], first["rule"]) == (f"sendgrid:{down}", "connect-failed")
        assert not first["possible_duplicate"] and not second["possible_duplicate"]
        assert second["site"] == f"ses:{up}"


async def test_the_installations_own_route_may_come_first(setup: Setup, outbound: Run) -> None:
    tenant = setup.tenant
    gone = SmtpServer(port=free_port())  # not begun
    async with ProviderApi("mailgun") as api:
        way = await setup.way("mailgun")
        await setup.route(ways.DEFAULT, way)
        async with outbound(gone, **by(api)):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "relayed")
        first, second = await tenant.attempts(email)
        assert (first["site"], first["rule"]) == (f"catch:127.0.0.1:{gone.port}", "connect-failed")
        assert second["site"] == f"mailgun:{way}" and len(api.accepted) == 1


async def test_with_all_ways_down_mail_waits_and_costs_no_attempts(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with ProviderApi("resend") as api:
        await setup.route(await setup.way("resend"))
        api.always = "suspended_key"
        async with outbound(sink, **by(api, retry_schedule=[3600])):
            mails = [await tenant.send(f"u{n}@example.com") for n in range(5)]
            site = "SELECT failures FROM sites WHERE key LIKE 'resend:%'"
            await until(lambda: tenant.admin.fetchval(site), "the way rests")
            await asyncio.sleep(0.6)  # several sweeps
        attempts = [len(await tenant.attempts(email)) for email in mails]
        assert sum(attempts) <= 2 and sink.caught == []
        assert [(await tenant.delivery(email))["state"] for email in mails] == ["queued"] * 5


async def test_a_smart_host_is_a_way(setup: Setup, outbound: Run, sink: SmtpServer) -> None:
    tenant = setup.tenant
    async with SmtpServer(extensions=("PIPELINING", "AUTH PLAIN LOGIN")) as host:
        host.script["auth"] = Step("235 2.7.0 Authentication successful")
        given = {"host": "127.0.0.1", "port": host.port, "tls": "none", "username": "us", "password": "pw"}
        way = await setup.way("smarthost", **given)
        # an operator's may be anywhere; a tenant's only where the operator opened the network
        await tenant.admin.execute("UPDATE ways SET org_id = NULL WHERE id = $1", way)
        await setup.route(way)
        async with outbound(sink, **by()):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "delivered")
        (attempt,) = await tenant.attempts(email)
        assert attempt["site"] == f"smarthost:{way}" and len(host.caught) == 1 and sink.caught == []
        assert any(command.startswith("AUTH PLAIN") for command in host.talks[0].commands)


async def test_a_smart_host_that_wants_the_tls_it_is_not_to_have_rests_and_says_what_to_set(
    setup: Setup, outbound: Run, sink: SmtpServer, authority: Authority
) -> None:
    """Its mail takes the route's next way, and nobody is suppressed for it."""
    tenant = setup.tenant
    demands = Step("530 5.7.0 Must issue a STARTTLS command first")
    async with SmtpServer({"mail": demands}, tls=authority.server("mx.test").context) as host, outbound(sink, **by()):
        way = await setup.way("smarthost", host="127.0.0.1", port=host.port, tls="none")
        await tenant.admin.execute("UPDATE ways SET org_id = NULL WHERE id = $1", way)
        await setup.route(way, ways.DEFAULT)
        first = await tenant.send("you@example.com")
        await tenant.state(first, "delivered")
        await tenant.state(await tenant.send("me@example.com"), "delivered")
        assert len(host.commands("MAIL")) == 1
    attempt, _ = await tenant.attempts(first)
    assert (attempt["outcome"], attempt["rule"], attempt["enhanced_code"]) == ("deferred", "tls-off", "4.7.10")
    site = await tenant.admin.fetchrow("SELECT * FROM sites WHERE key = $1", f"smarthost:{way}")
    assert site is not None and site["failures"] == 1
    assert "set `tls` of the way out" in site["last_reply"] and "set `tls` of the way out" in attempt["reply"]


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
async def test_a_smart_host_gets_the_password_over_verified_tls_only(
    setup: Setup, outbound: Run, sink: SmtpServer, certificates: Path, implicit: bool
) -> None:
    tenant = setup.tenant
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    async with SmtpServer(extensions=("PIPELINING", "AUTH PLAIN LOGIN"), tls=context, implicit=implicit) as host:
        host.script["auth"] = Step("235 2.7.0 Authentication successful")
        tls = "implicit" if implicit else "required"
        given = {"host": "localhost", "port": host.port, "username": "us", "password": "pw", "tls": tls}
        way = await setup.way("smarthost", **given)
        await tenant.admin.execute("UPDATE ways SET org_id = NULL WHERE id = $1", way)
        await setup.route(way, ways.DEFAULT)
        async with outbound(sink, **by(ca_file=str(certificates / "ca.pem"))):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "delivered")
        (caught,) = host.caught
        assert caught.tls and sink.caught == []
        commands = host.talks[0].commands
        verbs = [command.split()[0].upper() for command in commands]
        assert verbs[: verbs.index("AUTH")] == (["EHLO"] if implicit else ["EHLO", "STARTTLS", "EHLO"])

        # nobody vouches for its certificate: it hears no password, and the next way takes the mail
        before = len(host.talks)
        async with outbound(sink, **by()):
            email = await tenant.send("bob@example.com")
            await tenant.state(email, "delivered")
        assert (await tenant.attempts(email))[0]["rule"] == "tls-failed"
        assert [each.rcpt_to for each in sink.caught] == [["bob@example.com"]]
        assert not any(command.startswith("AUTH") for talk in host.talks[before:] for command in talk.commands)


async def test_a_tenants_smart_host_in_a_closed_network_is_passed_over(
    setup: Setup, outbound: Run, sink: SmtpServer
) -> None:
    tenant = setup.tenant
    async with SmtpServer() as inside:
        given = {"host": "127.0.0.1", "port": inside.port, "tls": "none"}
        await setup.route(await setup.way("smarthost", **given), ways.DEFAULT)
        async with outbound(sink, **by()):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "delivered")
        assert inside.talks == [] and len(sink.caught) == 1
        reply = await tenant.admin.fetchval("SELECT last_reply FROM sites WHERE key LIKE 'smarthost:%'")
        assert "not open to smarthosts" in reply or "closed to smarthosts" in reply


# ---- routing ---------------------------------------------------------------------------------------------------------


async def test_routes_by_tag_domain_and_organization(
    setup: Setup, outbound: Run, sink: SmtpServer, domain: UUID
) -> None:
    tenant = setup.tenant
    async with ProviderApi("resend") as resend, ProviderApi("ses") as ses, ProviderApi("mailgun") as mailgun:
        await setup.route(await setup.way("resend"), tag_name="stream", tag_value="news")
        await setup.route(await setup.way("ses"), domain_id=domain)
        async with setup.store.worker() as db:
            way = await setup.way("mailgun", reporting=False)
            await db.execute("UPDATE ways SET org_id = NULL WHERE id = $1", way)
            nobody = {"domain_id": None, "tag_name": None, "tag_value": None}
            await ways.add_route(db, route_id=uuid7(), org_id=None, for_org=None, ways=[way], **nobody)
        async with outbound(sink, **by(resend, ses, mailgun)):
            news = await tenant.send("ada@example.com", tags=[{"name": "stream", "value": "news"}])
            other = await tenant.send("ada@example.com", tags=[{"name": "stream", "value": "alerts"}])
            await tenant.state(news, "relayed")
            await tenant.state(other, "relayed")
        assert [len(api.accepted) for api in (resend, ses, mailgun)] == [1, 1, 0]
        # another list, or none: what waits follows
        third = await tenant.send("bob@example.com")
        await tenant.admin.execute("DELETE FROM routes_out WHERE domain_id IS NOT NULL")
        async with outbound(sink, **by(resend, ses, mailgun)):
            await tenant.state(third, "delivered")
        assert [len(api.accepted) for api in (resend, ses, mailgun)] == [1, 1, 0] and len(sink.caught) == 1


async def test_mail_to_test_addresses_leaves_by_no_way(setup: Setup, outbound: Run, sink: SmtpServer) -> None:
    tenant = setup.tenant
    async with ProviderApi("resend") as api:
        await setup.route(await setup.way("resend"))
        async with outbound(sink, **by(api)):
            email = await tenant.send("delivered@resend.dev", "bounced@resend.dev", "ada@example.com")
            await tenant.state(email, "delivered", 0)
            await tenant.state(email, "bounced", 1)
            await tenant.state(email, "relayed", 2)
    assert [taken.recipients for taken in api.accepted] == [["ada@example.com"]] and sink.caught == []


async def test_one_provider_may_take_everything(setup: Setup, outbound: Run) -> None:
    tenant = setup.tenant
    async with ProviderApi("mailgun") as api:
        providers = {"default": "mailgun", "mailgun": {"base_url": api.url, "account": {"api_key": "mg-key-7f3a"}}}
        async with outbound(route="provider", providers=providers):
            email = await tenant.send("ada@example.com")
            await tenant.state(email, "delivered")
        assert [each.recipients for each in api.accepted] == [["ada@example.com"]]
        (attempt,) = await tenant.attempts(email)
        assert attempt["site"] == "provider:mailgun"
