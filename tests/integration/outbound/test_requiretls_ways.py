"""REQUIRETLS on a route: the first way that can keep it takes the mail, and no provider's API can (RFC 8689 §4.2.1)."""

from __future__ import annotations

import pytest

from fakes.authority import Authority
from fakes.provider_api import ProviderApi
from fakes.smtp_server import SmtpServer
from integration.outbound.test_requiretls import OFFERS, hand_in, only_attempt
from integration.outbound.test_ways import Run, Setup, by, setup
from integration.outbound.tls_lab import Sts, good
from mailcore.store import sites, ways

__all__ = ["setup"]


async def test_the_first_way_that_is_no_providers_takes_it(
    setup: Setup, outbound: Run, authority: Authority, sts: Sts
) -> None:
    """Mail without the wish goes by the provider, as the route says."""
    tenant = setup.tenant
    sts.policy("enforce")
    async with (
        ProviderApi("mailgun") as api,
        SmtpServer(tls=good(authority).context, extensions=OFFERS) as peer,
    ):
        way = await setup.way("mailgun")
        await setup.route(way, ways.DEFAULT)
        async with outbound(**{**by(api), **sts.settings(peer)}):
            plain = await tenant.send("a@sts.example")
            strict = await hand_in(tenant, "a@sts.example")
            await tenant.state(plain, "relayed")
            await tenant.state(strict, "delivered")
        assert (await only_attempt(tenant, plain))["site"] == f"mailgun:{way}" and len(api.accepted) == 1
        [caught] = peer.caught
        assert caught.opening[0].endswith(" REQUIRETLS")
        assert (await only_attempt(tenant, strict))["site"] == "mx:mx.sts.example"


async def test_it_waits_for_that_way_rather_than_take_the_provider(
    setup: Setup, outbound: Run, authority: Authority, sts: Sts
) -> None:
    tenant = setup.tenant
    sts.policy("enforce")
    async with (
        ProviderApi("mailgun") as api,
        SmtpServer(tls=good(authority).context, extensions=OFFERS) as peer,
        outbound(**{**by(api), **sts.settings(peer)}),
    ):
        await setup.route(await setup.way("mailgun"), ways.DEFAULT)
        await tenant.state(await hand_in(tenant, "a@sts.example"), "delivered")  # where it goes is known
        async with setup.store.worker() as db:
            site = await tenant.admin.fetchval("SELECT id FROM sites WHERE key = 'mx:mx.sts.example'")
            await sites.suspend(db, site, "421 later", first=3600, longest=3600)
        strict, plain = await hand_in(tenant, "a@sts.example"), await tenant.send("a@sts.example")
        await tenant.state(plain, "relayed")
        assert (await tenant.delivery(strict))["state"] == "queued" and not await tenant.attempts(strict)
        async with setup.store.worker() as db:
            await sites.clear(db, site)
        await tenant.state(strict, "delivered")
        assert len(api.accepted) == 1


@pytest.mark.parametrize("more", ["alone", "with a second provider"])
async def test_where_all_are_providers_it_fails(setup: Setup, outbound: Run, sink: SmtpServer, more: str) -> None:
    tenant = setup.tenant
    async with ProviderApi("mailgun") as api, ProviderApi("resend") as second:
        named = [await setup.way("mailgun")] + ([await setup.way("resend")] if more != "alone" else [])
        await setup.route(*named)
        async with outbound(sink, **by(api, second)):
            strict = await hand_in(tenant, "a@example.com")
            await tenant.state(strict, "failed")
        attempt = await only_attempt(tenant, strict)
        assert (attempt["rule"], attempt["enhanced_code"]) == ("requiretls-not-offered", "5.7.30")
        assert api.accepted == second.accepted == [] and sink.caught == []
