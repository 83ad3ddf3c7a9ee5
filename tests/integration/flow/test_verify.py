"""A domain's records, looked up and judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from mailcore.dns.resolver import StaticResolver
from mailcore.flow.verify import Published, pending, verify
from mailcore.store.session import Store

PUBLISHED = Published("mail.us.test", "include:spf.us.test")
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
        row["detail"] for row in await admin.fetch("SELECT * FROM events WHERE type = 'domain.updated' ORDER BY id")
    ]


async def test_a_domain_with_all_its_records_is_verified(look: Look, admin: asyncpg.Connection) -> None:
    row = await look()
    assert row["status"] == "verified"
    assert row["verified_at"] == NOW
    assert set(row["record_status"].values()) == {"verified"}
    assert row["record_status"]["dmarc"] == "verified"
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
    assert (await look(NOW + timedelta(hours=71)))["status"] == "pending"
    assert (await look(NOW + timedelta(hours=73)))["status"] == "failed"


async def test_a_verified_domain_outlives_a_dns_that_is_away(look: Look, admin: asyncpg.Connection) -> None:
    await look()
    row = await look(NOW + timedelta(days=30), failing=frozenset({"send.postroom.test"}))
    assert row["status"] == "verified"
    assert row["record_status"]["spf_mx"] == "temporary_failure"


async def test_a_verified_domain_that_loses_a_record_has_three_days(look: Look, zones: Zones) -> None:
    await look()
    zones["send.postroom.test"] = {}
    row = await look(NOW + timedelta(hours=1))
    assert (row["status"], row["record_status"]["spf_mx"]) == ("verified", "temporary_failure")
    assert (await look(NOW + timedelta(hours=73)))["status"] == "failed"


async def test_receiving_is_judged_by_itself(look: Look, zones: Zones, admin: asyncpg.Connection) -> None:
    await admin.execute("UPDATE domains SET receiving = true")
    assert (await look())["status"] == "partially_verified"
    zones["postroom.test"] = {"MX": ["10 mail.us.test."]}
    assert (await look())["status"] == "verified"


async def test_a_name_that_another_has_verified_fails(
    look: Look, admin: asyncpg.Connection, make_org: Any, make_domain: Any
) -> None:
    await make_domain(await make_org(), "postroom.test")
    assert (await look())["status"] == "failed"


async def test_an_exempt_name_stays_as_it_is(look: Look, zones: Zones) -> None:
    zones.clear()
    row = await look(exempt=("postroom.test",))
    assert (row["status"], row["checked_at"]) == ("pending", None)


async def test_pending_domains_are_looked_at_again(
    store: Store, domain: UUID, zones: Zones, look: Look, admin: Any
) -> None:
    assert await pending(store) == [domain]
    zones["send.postroom.test"] = {}
    await look(datetime.now(UTC))
    assert await pending(store) == []
    await admin.execute("UPDATE domains SET checked_at = checked_at - interval '2 minutes', created_at = checked_at")
    assert await pending(store) == [domain]
