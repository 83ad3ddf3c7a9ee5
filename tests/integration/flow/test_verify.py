"""A domain's records, looked up and judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.dns.required import Published
from mailcore.dns.resolver import StaticResolver
from mailcore.flow import sources as flow
from mailcore.flow.advice import advice
from mailcore.flow.verify import claim_due, claim_one, verify
from mailcore.store import domains, sources
from mailcore.store.session import Store

PUBLISHED = Published("mail.us.test", "include:spf.us.test", tracking_host="track.us.test", tracking_caa="ca.test")
NOW = datetime.now(UTC)
Zones = dict[str, dict[str, list[str]]]


@pytest.fixture
async def zones(admin: asyncpg.Connection, domain: UUID) -> Zones:
    await admin.execute("UPDATE domains SET status = 'pending', verified_at = NULL, receiving = false")
    keys = await admin.fetch("SELECT selector, public_txt FROM dkim_keys")
    return {
        "send.postroom.test": {"MX": ["10 mail.us.test."], "TXT": ["v=spf1 include:spf.us.test ~all"]},
        **{f"{key['selector']}._domainkey.postroom.test": {"TXT": [key["public_txt"]]} for key in keys},
        "_dmarc.postroom.test": {"TXT": ["v=DMARC1; p=none"]},
    }


Look = Callable[..., Awaitable[asyncpg.Record]]


@pytest.fixture
def look(store: Store, admin: asyncpg.Connection, domain: UUID, zones: Zones) -> Look:
    async def look(now: datetime = NOW, failing: frozenset[str] = frozenset(), **options: Any) -> asyncpg.Record:
        await verify(store, StaticResolver(zones, failing=failing), domain, PUBLISHED, now=now, **options)
        row = await admin.fetchrow("SELECT * FROM domains WHERE id = $1", domain)
        assert row is not None
        return row

    return look


async def _events(admin: asyncpg.Connection) -> list[Any]:
    return [
        row["detail"]
        for row in await admin.fetch("SELECT * FROM events WHERE type = 'domain.updated' ORDER BY created_at")
    ]


async def test_a_domain_with_all_its_records_is_verified(look: Look, admin: asyncpg.Connection) -> None:
    row = await look()
    assert row["status"] == "verified"
    assert row["verified_at"] == NOW
    assert set(row["record_status"].values()) == {"verified"}
    seen = {"dmarc": "v=DMARC1; p=none", "dmarc_above": "", "mta_sts": "", "tls_rpt": "", "spf": None}
    assert row["seen"] == {**seen, "leaves_from": [], "uncovered": []}
    assert timedelta(hours=21) < row["check_due_at"] - datetime.now(UTC) < timedelta(hours=27), (
        "looked at again in a day"
    )
    (event,) = await _events(admin)
    assert (event["name"], event["status"]) == ("postroom.test", "verified")
    assert {record["record"] for record in event["records"]} == {"SPF", "DKIM"}
    await look()
    assert len(await _events(admin)) == 1, "nothing has changed: no second event"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("send.postroom.test", {}),
        ("send.postroom.test", {"MX": ["10 other.test."], "TXT": ["v=spf1 include:spf.us.test ~all"]}),
        ("send.postroom.test", {"MX": ["10 mail.us.test."], "TXT": ["v=spf1 -all"]}),
        ("send.postroom.test", {"MX": ["10 mail.us.test."], "TXT": ["v=spf1 include:spf.us.test -all", "v=spf1 -all"]}),
        ("rsa._domainkey.postroom.test", {"TXT": ["v=DKIM1; k=rsa; p="]}),
        ("rsa._domainkey.postroom.test", {"TXT": ["v=DKIM1; k=rsa; p=AAAA"]}),
    ],
)
async def test_a_missing_or_wrong_record_keeps_it_pending(
    look: Look, zones: Zones, name: str, value: dict[str, list[str]]
) -> None:
    zones[name] = value
    assert (await look())["status"] == "pending"


async def test_blanks_and_order_of_tags_do_not_matter(look: Look, zones: Zones) -> None:
    name = "rsa._domainkey.postroom.test"
    key = zones[name]["TXT"][0].partition("p=")[2]
    zones[name] = {"TXT": [f"p={key[:20]} {key[20:]}; k=rsa;v=DKIM1"]}
    assert (await look())["status"] == "verified"


async def test_after_three_days_without_records_it_has_failed(look: Look, zones: Zones) -> None:
    zones["send.postroom.test"] = {}
    row = await look()
    assert (row["status"], row["waiting_since"]) == ("pending", NOW)
    assert (await look(NOW + timedelta(hours=71)))["status"] == "pending"
    row = await look(NOW + timedelta(hours=73))
    assert (row["status"], row["check_due_at"]) == ("failed", None), "nobody looks again until somebody asks"


async def test_what_failed_begins_anew_when_somebody_asks(look: Look, zones: Zones, store: Store, org: UUID) -> None:
    zones["send.postroom.test"] = {}
    await look()
    row = await look(NOW + timedelta(hours=73))
    async with store.tenant(org) as db:
        assert await domains.begin_verification(db, row["id"])
    row = await look(datetime.now(UTC) + timedelta(hours=71))
    assert (row["status"], row["record_status"]["spf_mx"]) == ("pending", "pending")


async def test_a_verified_domain_outlives_a_dns_that_is_away(look: Look, admin: asyncpg.Connection) -> None:
    await look()
    failing = frozenset({"send.postroom.test"})
    for days in (1, 5, 30):
        row = await look(NOW + timedelta(days=days), failing=failing)
        assert (row["status"], row["record_status"]["spf_mx"]) == ("verified", "temporary_failure")
        assert row["check_due_at"] - datetime.now(UTC) < timedelta(hours=2), "looked at again before long"
    # and silence does not count as time without records
    assert (await look(NOW + timedelta(days=31)))["record_status"]["spf_mx"] == "verified"


async def test_a_verified_domain_that_loses_a_record_has_three_days(
    look: Look, zones: Zones, admin: asyncpg.Connection, store: Store, org: UUID
) -> None:
    await look()
    there = zones.pop("send.postroom.test")
    lost = NOW + timedelta(days=9)  # however long ago it was seen last
    row = await look(lost)
    assert (row["status"], row["record_status"]["spf_mx"], row["waiting_since"]) == (
        "verified",
        "temporary_failure",
        lost,
    )
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test") == row["id"], "it goes on sending meanwhile"
        # who asks again and again wins no time
        await domains.begin_verification(db, row["id"])
    assert (await look(lost + timedelta(hours=71)))["status"] == "verified"
    assert (await look(lost + timedelta(hours=73)))["status"] == "failed"
    async with store.tenant(org) as db:
        assert await domains.sending_id(db, "postroom.test") is None
    said = [(event["status"], event["records"][0]["status"]) for event in await _events(admin)]
    assert said == [("verified", "verified"), ("verified", "temporary_failure"), ("failed", "failed")]
    zones["send.postroom.test"] = there


async def test_a_record_that_comes_back_in_time_is_as_if_it_had_stayed(look: Look, zones: Zones) -> None:
    await look()
    there = zones.pop("send.postroom.test")
    await look(NOW + timedelta(hours=1))
    zones["send.postroom.test"] = there
    row = await look(NOW + timedelta(hours=2))
    assert (row["status"], row["waiting_since"]) == ("verified", None)
    zones.pop("send.postroom.test")
    assert (await look(NOW + timedelta(hours=80)))["status"] == "verified", "its three days begin anew"


async def test_receiving_is_judged_by_itself(look: Look, zones: Zones, admin: asyncpg.Connection, store: Store) -> None:
    await admin.execute("UPDATE domains SET receiving = true")
    row = await look()
    assert (row["status"], row["lacking"]) == ("partially_verified", "receiving")
    assert await store.lookup("SELECT * FROM lookup_receiving_domain('postroom.test')") == []
    row = await look(NOW + timedelta(hours=80))
    assert (row["status"], row["lacking"]) == ("partially_failed", "receiving")
    async with store.tenant(row["org_id"]) as db:
        assert await domains.sending_id(db, "postroom.test") == row["id"], "sending does not suffer"
    zones["postroom.test"] = {"MX": ["10 mail.us.test."]}
    row = await look(NOW + timedelta(hours=81))
    assert (row["status"], row["lacking"]) == ("verified", None)
    assert len(await store.lookup("SELECT * FROM lookup_receiving_domain('postroom.test')")) == 1


async def test_it_receives_though_it_may_not_send(
    look: Look, zones: Zones, admin: asyncpg.Connection, store: Store
) -> None:
    await admin.execute("UPDATE domains SET receiving = true")
    zones["postroom.test"] = {"MX": ["10 mail.us.test."]}
    del zones["send.postroom.test"]
    row = await look()
    assert (row["status"], row["lacking"]) == ("partially_verified", "sending")
    assert len(await store.lookup("SELECT * FROM lookup_receiving_domain('postroom.test')")) == 1
    async with store.tenant(row["org_id"]) as db:
        assert await domains.sending_id(db, "postroom.test") is None


@pytest.mark.parametrize("sending", [True, False])
async def test_nobody_receives_by_an_mx_alone(
    look: Look, zones: Zones, admin: asyncpg.Connection, store: Store, sending: bool
) -> None:
    """Its MX is the same for every organization: it does not say whose the domain is."""
    await admin.execute("UPDATE domains SET receiving = true, sending = $1", sending)
    zones["postroom.test"] = {"MX": ["10 mail.us.test."]}
    for name in [name for name in zones if "_domainkey" in name]:
        zones[name] = {"TXT": ["v=DKIM1; k=rsa; p=AAAA"]}  # somebody else's
    assert (await look())["status"] == "pending"
    assert await store.lookup("SELECT * FROM lookup_receiving_domain('postroom.test')") == []


async def test_a_name_that_another_has_verified_fails(
    look: Look, admin: asyncpg.Connection, make_org: Any, make_domain: Any
) -> None:
    await make_domain(await make_org(), "postroom.test")
    row = await look()
    assert (row["status"], row["seen"]["taken"], row["check_due_at"]) == ("failed", True, None)


async def test_an_exempt_name_stays_as_it_is(look: Look, zones: Zones) -> None:
    zones.clear()
    row = await look(exempt=("postroom.test",))
    assert (row["status"], row["checked_at"]) == ("pending", None)


async def test_a_look_that_began_before_a_change_is_not_written(
    store: Store, org: UUID, domain: UUID, zones: Zones, admin: asyncpg.Connection
) -> None:
    class Slow(StaticResolver):
        async def mx(self, name: str) -> Any:
            async with store.tenant(org) as db:
                await domains.update(db, domain, {"receiving": True})
            return await super().mx(name)

    await verify(store, Slow(zones), domain, PUBLISHED, now=NOW)
    row = await admin.fetchrow("SELECT * FROM domains")
    assert row is not None
    assert (row["status"], row["checked_at"]) == ("pending", None)
    assert await claim_due(store) == [domain], "the change asked for a look of its own"


async def test_of_two_looks_the_one_that_began_later_counts(
    look: Look, zones: Zones, store: Store, admin: asyncpg.Connection, domain: UUID
) -> None:
    class Overtaken(StaticResolver):
        """While it is being asked, the records appear and another look sees them."""

        async def mx(self, name: str) -> Any:
            zones.update(missing)
            await look(NOW + timedelta(seconds=1))
            return await super().mx(name)

    missing = {"send.postroom.test": zones.pop("send.postroom.test")}
    await verify(store, Overtaken(dict(zones)), domain, PUBLISHED, now=NOW)
    row = await admin.fetchrow("SELECT * FROM domains")
    assert row is not None
    assert (row["status"], set(row["record_status"].values())) == ("verified", {"verified"})
    assert row["checked_at"] == NOW + timedelta(seconds=1)


async def test_domains_are_looked_at_when_they_are_due(
    store: Store, domain: UUID, zones: Zones, look: Look, admin: asyncpg.Connection
) -> None:
    assert await claim_due(store) == [], "nobody has asked"
    await admin.execute("UPDATE domains SET check_due_at = now()")
    assert await claim_due(store) == [domain]
    assert await claim_due(store) == [], "another process does not look at the same time"
    zones["send.postroom.test"] = {}
    waits = []
    for hours in (0, 2, 5, 30):
        row = await look(NOW + timedelta(hours=hours))
        waits.append((row["check_due_at"] - datetime.now(UTC)).total_seconds() / 60)
    assert [round(wait, -1) for wait in waits[:3]] in ([0, 10, 30], [0, 10, 20], [0, 10, 40])
    assert 50 < waits[3] < 70, "at last every hour"


async def test_many_requests_make_one_look_and_none_is_lost(
    store: Store, org: UUID, domain: UUID, zones: Zones, admin: asyncpg.Connection
) -> None:
    assert not await claim_one(store, domain)
    async with store.tenant(org) as db:
        await domains.begin_verification(db, domain)
    assert [await claim_one(store, domain) for _ in range(3)] == [True, False, False]

    class Slow(StaticResolver):
        async def mx(self, name: str) -> Any:
            async with store.tenant(org) as db:  # asked again, after the record was published, while we look
                await domains.begin_verification(db, domain)
            return await super().mx(name)

    await verify(store, Slow({}), domain, PUBLISHED, now=NOW)
    assert await admin.fetchval("SELECT checked_at FROM domains") == NOW
    assert await claim_one(store, domain), "that request has its own look"


# ---- tracking ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def tracked(admin: asyncpg.Connection, zones: Zones, domain: UUID) -> None:
    await admin.execute(
        "UPDATE domains SET tracking_subdomain = 'links', old_tracking = '{old}', tracking_changed_at = $1", NOW
    )


async def test_tracking_is_verified_by_its_cname(look: Look, zones: Zones, tracked: None) -> None:
    row = await look()
    assert (row["status"], row["tracking_verified"]) == ("verified", False), "mail does not wait for it"
    assert (row["record_status"]["tracking:links"], row["record_status"]["tracking:old"]) == ("pending", "pending")
    assert row["check_due_at"] - datetime.now(UTC) < timedelta(minutes=2), "and it is looked for again"
    zones["links.postroom.test"] = {"CNAME": ["Track.us.test."]}
    row = await look()
    assert (row["tracking_verified"], row["record_status"]["tracking:links"]) == (True, "verified")
    # no answer changes nothing; a record that is gone ends it at once: links that lead nowhere break mail
    row = await look(failing=frozenset({"links.postroom.test"}))
    assert (row["tracking_verified"], row["record_status"]["tracking:links"]) == (True, "temporary_failure")
    del zones["links.postroom.test"]
    row = await look()
    assert (row["tracking_verified"], row["record_status"]["tracking:links"]) == (False, "failed")
    assert row["status"] == "verified"


async def test_tracking_by_addresses_of_our_host_counts_too(look: Look, zones: Zones, tracked: None) -> None:
    zones |= {"track.us.test": {"A": ["192.0.2.7"]}, "links.postroom.test": {"A": ["192.0.2.7"]}}
    assert (await look())["tracking_verified"] is True
    zones["links.postroom.test"] = {"A": ["192.0.2.8"]}
    assert (await look())["tracking_verified"] is False


async def test_a_caa_record_is_asked_for_where_another_forbids_our_authority(
    look: Look, zones: Zones, tracked: None
) -> None:
    assert "tracking_caa:links" not in (await look())["record_status"]
    zones["postroom.test"] = {"CAA": ['0 issue "other.test"']}
    assert (await look())["record_status"]["tracking_caa:links"] == "pending"
    zones["links.postroom.test"] = {"CAA": ['0 issue "ca.test; x=y"']}
    assert (await look())["record_status"]["tracking_caa:links"] == "verified"


async def test_an_address_of_a_pool_that_spf_does_not_cover_is_said(
    look: Look, zones: Zones, store: Store, domain: UUID
) -> None:
    async def advised() -> dict[str, Any]:
        await look()
        async with store.worker() as db:
            row = await domains.find(db, domain)
        assert row is not None
        return next(each for each in advice(row, PUBLISHED) if each["topic"] == "ReturnPath")

    zones["spf.us.test"] = {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]}
    async with store.worker() as db:
        pool = await sources.add_pool(db, "news", [("", 1)], None)
    for ip in ("127.0.0.1", "127.0.0.2", "10.0.0.3"):
        await flow.add_source(store, {"pool_id": pool, "ipv4": ip, "ehlo_name": "n.test"}, schedule=[5], warm=True)
    said = await advised()
    assert said["status"] == "warning" and "SPF of send.postroom.test does not cover 127.0.0.2:" in said["message"]
    assert "Mail leaves from 127.0.0.1, 127.0.0.2" in said["message"] and "POSTROOM_DOMAINS__SPF" in said["message"]
    zones["spf.us.test"] = {"TXT": ["v=spf1 ip4:127.0.0.0/30 -all"]}
    assert (await advised())["status"] == "ok"
    # what the domain's own pool carries does not leave from everybody's
    zones["spf.us.test"] = {"TXT": ["v=spf1 ip4:127.0.0.9 -all"]}
    async with store.worker() as db:
        own = await sources.add_pool(db, "own", [("postroom.test", 0), ("postroom.test", 1)], None)
    await flow.add_source(store, {"pool_id": own, "ipv4": "127.0.0.9", "ehlo_name": "o.test"}, schedule=[5], warm=True)
    said = await advised()
    assert said["status"] == "ok" and "from 127.0.0.9;" in said["message"]
