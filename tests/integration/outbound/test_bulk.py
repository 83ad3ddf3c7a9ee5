"""Bulk senders are noticed by what is counted, told what they lack before it matters, and stopped where the operator says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from fakes.dns_server import DnsServer
from fakes.smtp_server import SmtpServer
from integration.flow.test_health import IP, REVERSE, certificate
from mailcore.blob.local import LocalBlobs
from mailcore.dns.required import Published
from mailcore.dns.resolver import DnsResolver
from mailcore.flow import health, reputation
from mailcore.flow.submit import NewEmail, Submits
from mailcore.kit.errors import Refused
from mailcore.kit.settings import Health, HowMailLeaves, Network, Reputation, Scanners
from mailcore.queue.bell import Ringer
from mailcore.smtp.address import parse_address
from mailcore.store.session import Store
from outbound.guarding import Guards

MakeOrg = Callable[[], Awaitable[UUID]]
MakeDomain = Callable[[UUID, str], Awaitable[UUID]]
DMARC = "_dmarc.mail.test"
VERIFIED = {"spf_txt": "verified", "spf_mx": "verified", "dkim:rsa": "verified", "dkim:ed25519": "verified"}


class Installation:
    """One that has all that is asked for, until a test takes something away from `zones`."""

    def __init__(self, store: Store, ringer: Ringer, admin: asyncpg.Connection, dns: DnsServer) -> None:
        self.store, self._ringer, self._admin, self._dns = store, ringer, admin, dns
        self.zones: dict[str, Any] = dns.zones  # type: ignore[assignment]
        self.mx_port = 0

    async def look(self, *, route: str = "mx", **limits: Any) -> None:
        """As outbound does hourly."""
        own = HowMailLeaves(
            route=route, source_ip=IP, mx_port=self.mx_port, ehlo_name="out.test", catch_host="127.0.0.1:1"
        )  # type: ignore[arg-type]
        settings = SimpleNamespace(
            outbound=own,
            health=Health(blocklists=[], domain_blocklists=[], probe_domain=""),
            scanners=Scanners(),
            network=Network(),
        )
        resolver = DnsResolver([self._dns.address], timeout=30, cache_size=0)
        guards = Guards(
            *(self.store, self._ringer, Reputation(**limits), resolver),
            partial(health.scene, settings, Published("mx.test", f"ip4:{IP}"), self.store),
            catches=route == "catch",
        )
        await guards.health()

    async def sent(self, org: UUID, domain: UUID, n: int, kind: str = "sent", *, hours: int = 0) -> None:
        """As flow.count adds it up."""
        await self._admin.execute(
            "INSERT INTO event_counts (org_id, at, domain_id, kind, n) VALUES ($1, date_bin('15 minutes', now(), "
            "'2000-01-01Z') - make_interval(hours => $5), $2, $3, $4)",
            *(org, domain, kind, n, hours),
        )

    async def alarms(self) -> list[asyncpg.Record]:
        return await self._admin.fetch("SELECT * FROM alarms WHERE ended_at IS NULL ORDER BY domain")

    async def lacks(self) -> list[str]:
        """What the only open alarm says is missing; [] where there is none."""
        alarms = await self.alarms()
        assert len(alarms) <= 1
        return [each["name"] for alarm in alarms for each in alarm["facts"]["missing"]]


@pytest.fixture
async def domain(org: UUID, make_domain: MakeDomain, admin: asyncpg.Connection) -> UUID:
    """mail.test, whose records are those of `there`."""
    made = await make_domain(org, "mail.test")
    await admin.execute("UPDATE domains SET record_status = $1", VERIFIED)
    return made


@pytest.fixture
async def there(
    store: Store, ringer: Ringer, admin: asyncpg.Connection, domain: UUID, tmp_path: Path
) -> AsyncIterator[Installation]:
    keys = await admin.fetch("SELECT selector, public_txt FROM dkim_keys")
    zones: dict[str, Any] = {
        REVERSE: {"PTR": ["out.test."]},
        "out.test": {"A": [IP]},
        "mx.test": {"A": [IP]},
        "send.mail.test": {"TXT": [f"v=spf1 ip4:{IP} ~all"]},
        DMARC: {"TXT": ["v=DMARC1; p=none"]},
        **{f"{key['selector']}._domainkey.mail.test": {"TXT": [key["public_txt"]]} for key in keys},
    }
    async with SmtpServer(tls=certificate(tmp_path, "mx.test")) as mx, DnsServer(zones) as dns:
        made = Installation(store, ringer, admin, dns)
        made.mx_port = mx.port
        yield made


# ---- who is one ------------------------------------------------------------------------------------------------------


async def test_a_bulk_sender_that_has_everything_raises_no_alarm(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await there.sent(org, domain, 6_000)
    await there.look()
    assert await there.alarms() == []
    assert await admin.fetchval("SELECT sent FROM bulk_senders WHERE reached_at IS NOT NULL") == 6_000


async def test_one_without_dmarc_is_told_what_to_publish_and_that_it_is_mended(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await there.sent(org, domain, 6_000)
    del there.zones[DMARC]
    for _ in range(2):
        await there.look()
    (alarm,) = await there.alarms()
    assert (alarm["kind"], alarm["action"], alarm["org_id"], alarm["domain"]) == ("bulk", "warned", org, "mail.test")
    assert "more than 5000 mails within 24 hours" in alarm["text"]
    assert "DMARC: mail.test has no DMARC policy" in alarm["text"]
    (missing,) = alarm["facts"]["missing"]
    assert (
        missing["advice"] == "Publish TXT `v=DMARC1; p=none` at _dmarc.mail.test."
        and missing["advice"] in alarm["text"]
    )
    there.zones[DMARC] = {"TXT": ["v=DMARC1; p=none"]}
    await there.look()
    assert await there.alarms() == []
    assert await admin.fetchval("SELECT ended_by FROM alarms") == "mended"
    raised = await admin.fetch("SELECT type FROM events WHERE object_id = $1 ORDER BY id", alarm["id"])
    assert [row["type"] for row in raised] == ["alarm.raised", "alarm.ended"]


async def test_half_the_way_there_is_a_warning_and_once_there_it_stays_a_bulk_sender(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    del there.zones[DMARC]
    await there.sent(org, domain, 2_499)
    await there.look()
    assert await there.alarms() == []
    await there.sent(org, domain, 1, hours=1)
    await there.look()
    (near,) = await there.alarms()
    assert (
        "sent 2500 mails within 24 hours; past 5000 it is one" in near["text"] and near["facts"]["reached_at"] is None
    )
    await there.sent(org, domain, 2_501, hours=2)
    await there.look()
    (alarm,) = await there.alarms()
    assert alarm["id"] != near["id"] and alarm["facts"]["reached_at"] is not None
    assert await admin.fetchval("SELECT ended_by FROM alarms WHERE id = $1", near["id"]) == "change"
    await admin.execute("UPDATE event_counts SET at = at - interval '25 hours'")
    await there.look()
    assert [each["id"] for each in await there.alarms()] == [alarm["id"]], "a bulk sender for good"


async def test_who_was_near_and_sends_less_is_left_alone(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    del there.zones[DMARC]
    await there.sent(org, domain, 5_000)
    await there.look()
    assert await there.lacks() == ["DMARC"]
    await admin.execute("UPDATE event_counts SET at = at - interval '25 hours'")
    await there.look()
    assert await there.alarms() == [] and await admin.fetchval("SELECT ended_by FROM alarms") == "rate"
    assert await admin.fetchval("SELECT count(*) FROM bulk_senders") == 0


async def test_names_below_one_registered_domain_count_together_whoever_has_them(
    there: Installation, org: UUID, domain: UUID, make_org: MakeOrg, make_domain: MakeDomain
) -> None:
    other = await make_org()
    theirs, elsewhere = await make_domain(other, "shop.mail.test"), await make_domain(other, "notmail.test")
    await there.sent(org, domain, 3_000)
    await there.sent(other, theirs, 3_000)
    await there.sent(other, elsewhere, 2_000)
    await there.look()
    (alarm,) = await there.alarms()
    assert (alarm["org_id"], alarm["domain"]) == (other, "shop.mail.test"), (
        "mail.test has all of it, and notmail.test sends little"
    )
    assert alarm["facts"]["registered_domain"] == "mail.test" and alarm["facts"]["reached_at"] is not None


async def test_mail_to_test_addresses_and_mail_received_count_nothing(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    del there.zones[DMARC]
    for kind, n in (("sent", 6_000), ("test_delivered", 3_000), ("test_bounced_permanent", 2_000), ("received", 9_000)):
        await there.sent(org, domain, n, kind)
    await there.look()
    assert await admin.fetch("SELECT * FROM bulk_senders") == []


async def test_where_no_mail_leaves_or_nobody_wants_to_know_there_is_no_alarm(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await there.sent(org, domain, 6_000)
    del there.zones[DMARC]
    await there.look(route="catch")
    await there.look(bulk="off")
    assert await there.alarms() == [] and await admin.fetch("SELECT * FROM bulk_senders") == []
    await there.look()
    assert await there.lacks() == ["DMARC"]
    await there.look(bulk="off")
    assert await there.alarms() == []


# ---- what it lacks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gone", "advice"),
    [
        ("SPF", "send.mail.test", f"Publish `v=spf1 ip4:{IP} ~all`"),
        ("DKIM", "rsa._domainkey.mail.test", "Publish the TXT record rsa._domainkey.mail.test"),
        ("DMARC", DMARC, "Publish TXT `v=DMARC1; p=none`"),
        ("PTR", REVERSE, f"Ask whoever gave you {IP}"),
    ],
)
async def test_each_of_what_is_asked_for_can_be_missing_and_be_mended(
    there: Installation, org: UUID, domain: UUID, name: str, gone: str, advice: str
) -> None:
    await there.sent(org, domain, 6_000)
    records = there.zones.pop(gone)
    await there.look()
    assert await there.lacks() == [name]
    (alarm,) = await there.alarms()
    assert f"{name}: " in alarm["text"] and advice in alarm["text"]
    there.zones[gone] = records
    await there.look()
    assert await there.alarms() == []


async def test_a_mail_server_without_tls_is_one_of_them(there: Installation, org: UUID, domain: UUID) -> None:
    await there.sent(org, domain, 6_000)
    async with SmtpServer() as plain:
        there.mx_port = plain.port
        await there.look()
    assert await there.lacks() == ["TLS"]
    assert "POSTROOM_SMTP__TLS_CERT" in (await there.alarms())[0]["text"]


async def test_complaints_are_one_of_them_as_long_as_their_own_alarm(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await there.sent(org, domain, 6_000)
    await there.sent(org, domain, 6_000, "delivered")
    await there.sent(org, domain, 6, "complained")
    await reputation.guard(there.store, Reputation())
    await there.look(bulk="refuse")
    of_bulk = {alarm["kind"]: alarm for alarm in await there.alarms()}
    assert of_bulk.keys() == {"complaints", "bulk"}
    assert [each["name"] for each in of_bulk["bulk"]["facts"]["missing"]] == ["Complaints"]
    assert of_bulk["bulk"]["action"] == "warned", "past their own limit they pause"
    assert "6 of 6000 delivered mails were marked as spam" in of_bulk["bulk"]["text"]
    await reputation.guard(there.store, Reputation())
    assert len(await there.alarms()) == 2, "who guards rates leaves it alone"
    await admin.execute("DELETE FROM event_counts WHERE kind = 'complained'")
    await reputation.guard(there.store, Reputation())
    await there.look()
    assert await there.alarms() == []


async def test_a_dns_that_does_not_answer_neither_raises_an_alarm_nor_ends_one(
    there: Installation, org: UUID, domain: UUID
) -> None:
    await there.sent(org, domain, 6_000)
    there._dns.failing = [DMARC, "send.mail.test"]
    await there.look()
    assert await there.alarms() == []
    there._dns.failing = []
    records = there.zones.pop(DMARC)
    await there.look()
    (alarm,) = await there.alarms()
    there._dns.failing = [DMARC]
    there.zones[DMARC] = records
    await there.look()
    assert [each["id"] for each in await there.alarms()] == [alarm["id"]]


async def test_what_else_is_missing_takes_the_alarms_place(there: Installation, org: UUID, domain: UUID) -> None:
    await there.sent(org, domain, 6_000)
    del there.zones[DMARC]
    await there.look()
    records = there.zones.pop(REVERSE)
    await there.look()
    assert await there.lacks() == ["DMARC", "PTR"]
    there.zones[REVERSE] = records
    await there.look()
    assert await there.lacks() == ["DMARC"]


# ---- refusing, and who takes that back -------------------------------------------------------------------------------


async def test_a_warning_stops_nothing_and_refuse_does_until_it_is_mended(
    there: Installation, ringer: Ringer, org: UUID, domain: UUID, tmp_path: Path
) -> None:
    def submits() -> Submits:
        """One that remembers nothing."""
        return Submits(there.store, ringer, LocalBlobs(tmp_path / "blobs"))

    to = "a@example.com"
    mail = NewEmail("us@mail.test", "mail.test", [to], [parse_address(to)], "s", text="t")
    records = there.zones.pop(DMARC)
    await there.sent(org, domain, 5_000)
    await there.look(bulk="refuse")
    assert [each["action"] for each in await there.alarms()] == ["warned"], "it is none yet"
    await there.sent(org, domain, 1_000, hours=1)
    await there.look()
    await submits().submit(org, [mail], door="test")
    await there.look(bulk="refuse")
    with pytest.raises(Refused, match=r"paused.*DMARC.*Publish TXT"):
        await submits().submit(org, [mail], door="test")
    there.zones[DMARC] = records
    await there.look(bulk="refuse")
    await submits().submit(org, [mail], door="test")


async def test_what_the_operator_has_ended_comes_back_a_day_later(
    there: Installation, ringer: Ringer, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await there.sent(org, domain, 6_000)
    del there.zones[DMARC]
    await there.look()
    (alarm,) = await there.alarms()
    await reputation.end(there.store, ringer, alarm["id"])
    await there.look()
    assert await there.alarms() == []
    await admin.execute("UPDATE alarms SET ended_at = ended_at - interval '25 hours'")
    await there.look()
    assert await there.lacks() == ["DMARC"]


# ---- many ------------------------------------------------------------------------------------------------------------

MANY = health.MOST_DOMAINS + health.MOST_BULK + 40


async def test_of_more_domains_than_one_look_takes_all_are_judged_and_looked_at_in_turns(
    there: Installation, org: UUID, domain: UUID, admin: asyncpg.Connection
) -> None:
    await admin.execute(
        "INSERT INTO domains (id, org_id, name, status, sending, record_status) "
        "SELECT gen_random_uuid(), $1, 'n' || n || '.mail.test', 'verified', true, '{}' FROM generate_series(1, $2::int) n",
        *(org, MANY),
    )
    await there.sent(org, domain, 6_000)
    looked = "SELECT count(DISTINCT subject) FROM health_findings WHERE \"check\" = 'dmarc'"
    await there.look()
    assert len(await there.alarms()) == MANY, "each lacks SPF and DKIM, by what its own daily look has found"
    first = await admin.fetchval(looked)
    assert first == health.MOST_DOMAINS + health.MOST_BULK < MANY
    at = await admin.fetchval("SELECT max(at) FROM health_findings")
    await there.look()
    assert len(await there.alarms()) == MANY
    assert await admin.fetchval(looked) == MANY + 1, "those that were not looked at go first, and what is known stays"
    assert await admin.fetchval(f"{looked} AND at > $1", at) == first
    gone = await admin.fetch("DELETE FROM domains WHERE name LIKE 'n1%' RETURNING name")
    await there.look()
    assert await admin.fetchval(f"{looked} AND subject = ANY ($1::text[])", [row["name"] for row in gone]) == 0
