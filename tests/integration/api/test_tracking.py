"""Image, links and unsubscribing as the world asks for them; attacks D2 and D3 of the reliability plan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from api.tracking.routes import PIXEL
from mailcore.flow import track
from mailcore.kit.ids import uuid7
from mailcore.kit.seal import Keyring
from mailcore.mime.tracking import ALL, Tracking, click_url, open_url, unsubscribe_headers, unsubscribe_token
from mailcore.store.session import Store
from mailcore.store.unsubscribes import remove, unsubscribed

from .harness import MakeClient, assert_error, email

PERSON = {"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
GMAIL = {"user-agent": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"}
PUBLIC = {"public_url": "http://api.test"}
"""The host that the tests ask: the installation's own."""
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@dataclass
class Mail:
    """A delivered email, and what its readers ask for."""

    client: httpx.AsyncClient
    admin: asyncpg.Connection
    tracking: Tracking
    org_id: UUID
    id: UUID

    def open_path(self) -> str:
        return open_url(self.tracking, self.org_id, self.id)

    def click_path(self, url: str) -> str:
        return click_url(self.tracking, self.org_id, self.id, url)

    async def open(self, headers: dict[str, str] = PERSON, method: str = "GET") -> httpx.Response:
        return await self.client.request(method, self.open_path(), headers=headers)

    async def click(self, url: str = "https://shop.example/a?b=1&c=2#d", **headers: str) -> httpx.Response:
        return await self.client.get(self.click_path(url), headers=headers or PERSON)

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Opens and clicks in their order, when all that was noted is stored."""
        await _tracks(self.client).drain(60)
        rows = await self.admin.fetch(
            "SELECT type, detail FROM events WHERE object_id = $1 AND type IN ('email.opened', 'email.clicked') ORDER BY id",
            self.id,
        )
        return [(row["type"], row["detail"]) for row in rows]

    async def last_events(self) -> list[str]:
        await _tracks(self.client).drain(60)
        rows = await self.admin.fetch("SELECT last_event FROM deliveries WHERE email_id = $1 ORDER BY n", self.id)
        return [row["last_event"] for row in rows]


MakeMail = Callable[..., Awaitable[Mail]]


def _tracks(client: httpx.AsyncClient) -> track.Tracks:
    found: track.Tracks = client._transport.app.ctx.tracks  # type: ignore[attr-defined]
    return found


@pytest.fixture
def tracking(keyring: Keyring) -> Tracking:
    return Tracking("", keyring.derive("track"), opens=True, clicks=True)


@pytest.fixture
async def make_mail(
    api: httpx.AsyncClient, make_client: MakeClient, admin: asyncpg.Connection, org: UUID, tracking: Tracking
) -> MakeMail:
    async def make(*, to: str | list[str] = "you@example.com", minutes_ago: float = 10, delivered: bool = True) -> Mail:
        id_ = UUID((await api.post("/emails", json=email(to=to))).json()["id"])
        if delivered:
            at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
            await admin.execute(
                "UPDATE deliveries SET state = 'delivered', last_event = 'delivered', last_event_at = $2 WHERE email_id = $1",
                id_,
                at,
            )
            await admin.execute(
                "INSERT INTO attempts (email_id, n, attempt, org_id, at, outcome) "
                "SELECT email_id, n, 1, org_id, $2, 'delivered' FROM deliveries WHERE email_id = $1",
                id_,
                at,
            )
        return Mail(await make_client(None, http=PUBLIC), admin, tracking, org, id_)

    return make


async def test_an_open_and_a_click_of_a_person(make_mail: MakeMail, api: httpx.AsyncClient) -> None:
    mail = await make_mail()
    opened, clicked = await mail.open(), await mail.click()
    assert (opened.status_code, opened.content, opened.headers["content-type"]) == (200, PIXEL, "image/gif")
    assert "no-store" in opened.headers["cache-control"]
    assert (clicked.status_code, clicked.headers["location"]) == (302, "https://shop.example/a?b=1&c=2#d")
    assert "no-store" in clicked.headers["cache-control"]
    assert clicked.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in clicked.headers
    (first, second) = await mail.events()
    assert first[0] == "email.opened"
    assert set(first[1]["open"]) == {"ipAddress", "timestamp", "userAgent"}
    assert second[0] == "email.clicked"
    assert second[1]["click"] | {"timestamp": 0} == {
        "ipAddress": "127.0.0.1",
        "link": "https://shop.example/a?b=1&c=2#d",
        "timestamp": 0,
        "userAgent": PERSON["user-agent"],
    }
    assert first[1]["first"] and second[1]["first"]
    assert (await api.get(f"/emails/{mail.id}")).json()["last_event"] == "clicked"
    await mail.open()
    await mail.click()
    assert ["first" in detail for _, detail in await mail.events()] == [True, True, False, False]
    assert await mail.last_events() == ["clicked"], "an open after a click takes nothing back"


async def test_proxies_are_named_and_the_one_that_asks_for_every_mail_is_no_first_open(make_mail: MakeMail) -> None:
    mail = await make_mail()
    for headers in ({"user-agent": "Mozilla/5.0"}, GMAIL, {"user-agent": "YahooMailProxy; https://help.yahoo.com"}):
        await mail.open(headers)
    await mail.open()
    details = [detail for _, detail in await mail.events()]
    assert [detail["open"].get("proxy") for detail in details] == ["apple", "gmail", "yahoo", None]
    assert ["first" in detail for detail in details] == [False, True, False, False]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", PERSON),
        ("GET", PERSON | {"sec-purpose": "prefetch;prerender"}),
        ("GET", {"user-agent": "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/534+ (KHTML, like Gecko) BingPreview/1.0b"}),
        ("GET", {"user-agent": "Barracuda Sentinel (EE)"}),
    ],
)
async def test_scanners_are_marked_and_move_nothing(make_mail: MakeMail, method: str, headers: dict[str, str]) -> None:
    mail = await make_mail()
    await mail.open(headers, method)
    answer = await mail.client.request(method, mail.click_path("https://a.example/"), headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (302, "https://a.example/")
    details = [detail for _, detail in await mail.events()]
    assert [detail.get("open", detail.get("click"))["scanner"] for detail in details] == [True, True]
    assert not any("first" in detail for detail in details)
    assert await mail.last_events() == ["delivered"]


async def test_who_comes_within_seconds_or_follows_all_links_at_once_is_marked(
    make_mail: MakeMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in ("AT_ONCE", "NEXT_LINK"):
        monkeypatch.setattr(track, seconds, timedelta(minutes=5))  # longer than any machine stands still
    fresh = await make_mail(minutes_ago=0)
    await fresh.open()
    ((_, opened),) = await fresh.events()
    assert opened["open"]["scanner"] and "first" not in opened
    burst = await make_mail()
    for n in range(4):
        await burst.click(f"https://shop.example/{n}")
    assert ["scanner" in detail["click"] for _, detail in await burst.events()] == [False, True, True, True]
    same = await make_mail()
    for _ in range(3):  # a double click
        await same.click()
    assert ["scanner" in detail["click"] for _, detail in await same.events()] == [False, False, False]


async def test_of_several_recipients_nobody_is_named(make_mail: MakeMail, admin: asyncpg.Connection) -> None:
    mail = await make_mail(to=["a@example.com", "b@example.com"])
    await mail.open()
    await mail.events()
    recipients = await admin.fetchval("SELECT recipients FROM events WHERE type = 'email.opened'")
    assert recipients is None
    assert await mail.last_events() == ["opened", "opened"]


async def test_who_reads_before_the_delivery_is_settled_and_who_bounces_later(
    make_mail: MakeMail, admin: asyncpg.Connection
) -> None:
    mail = await make_mail(delivered=False)
    await mail.open()
    assert await mail.last_events() == ["opened"]
    bounced = await make_mail()
    await admin.execute("UPDATE deliveries SET last_event = 'complained' WHERE email_id = $1", bounced.id)
    await bounced.click()
    assert len(await bounced.events()) == 1
    assert await bounced.last_events() == ["complained"]


# ---- D2 --------------------------------------------------------------------------------------------------------------


async def test_an_altered_token_leads_nowhere(make_mail: MakeMail) -> None:
    mail = await make_mail()
    good = mail.click_path("https://shop.example/").rpartition("/")[2]
    for i in range(len(good)):
        token = good[:i] + ("A" if good[i] != "A" else "B") + good[i + 1 :]
        answer = await mail.client.get(f"/track/click/{token}", headers=PERSON)
        assert_error(answer, 404, "not_found")
        assert "location" not in answer.headers
    for token in (
        good + "A",
        good + "=",
        good[:-1],
        good + "%00",
        good + "%0d%0aX",
        "x",
        "ü",
        "A" * 5000,
        mail.open_path()[12:],
    ):
        answer = await mail.client.get(f"/track/click/{token}", headers=PERSON)
        assert_error(answer, 404, "not_found")
    assert (await mail.client.get(f"/track/open/{good}")).status_code == 404, "a link's token opens nothing"
    assert await mail.events() == []


NO_TARGETS = (
    *(
        "//evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "https:\\\\evil.example",
        "https://a.example\\@evil.example",
    ),
    *(
        "https://a.example/\r\nset-cookie: x",
        "https://a.example/%zz\n",
        "https:///evil",
        "https://user:pw@evil.example/",
    ),
    *(
        "ftp://a.example/",
        "http:a.example",
        "https://a.example/ b",
        "\thttps://a.example/",
        "https://a.example/" + "a" * 1400,
    ),
    *("file:///etc/passwd", "", "https://", "https://a.example:80x/", "https://bücher.example/"),
)


async def test_even_a_signed_target_is_only_http(make_mail: MakeMail) -> None:
    mail = await make_mail()
    for url in NO_TARGETS:
        answer = await mail.click(url)
        assert answer.status_code == 404, url
        assert "location" not in answer.headers


async def test_the_tokens_of_another_key_and_of_an_older_one(
    make_mail: MakeMail, make_client: MakeClient, keyring: Keyring, org: UUID
) -> None:
    mail = await make_mail()
    foreign = Tracking("", Keyring([b"x" * 32]).derive("track"), True, True)
    assert (await mail.client.get(open_url(foreign, org, mail.id))).status_code == 404
    rotated = await make_client(
        None, http=PUBLIC, encryption_key="ab" * 32, old_encryption_keys=[bytes(range(32)).hex()]
    )
    answer = await rotated.get(mail.click_path("https://a.example/"), headers=PERSON)
    assert answer.status_code == 302, "links of mail that was sent before the key changed go on working"


async def test_a_link_leads_from_its_organizations_hosts_only(
    make_mail: MakeMail, admin: asyncpg.Connection, make_org: Callable[[], Awaitable[UUID]], make_domain: Any
) -> None:
    """D3: a link in one organization's mail is not taken for another's word by standing on that one's host."""
    mail = await make_mail()
    bank = await make_domain(await make_org(), "bank.test")
    ours = await admin.fetchval("SELECT id FROM domains WHERE org_id = $1", mail.org_id)
    for id_ in (bank, ours):
        await admin.execute(
            "UPDATE domains SET tracking_subdomain = 'links', old_tracking = '{click}' WHERE id = $1", id_
        )

    async def status(host: str) -> int:
        return (await mail.click("https://a.example/", **PERSON, host=host)).status_code

    assert await status("links.bank.test") == await status("click.bank.test") == await status("BANK.test:443") == 404
    assert await status("stranger.example") == 404
    assert await status("links.postroom.test") == await status("CLICK.postroom.test:8443") == 302
    # the installation's own, and what only a proxy in front of it says
    for host in ("api.test", "127.0.0.1:8080", "[::1]:8080", "api:8080"):
        assert await status(host) == 302, host
    assert [detail["click"]["link"] for _, detail in await mail.events()] == ["https://a.example/"] * 6
    await admin.execute("UPDATE domains SET old_tracking = '{}' WHERE id = $1", ours)
    assert await status("click.postroom.test") == 302, "known for some minutes"


async def test_without_a_database_mail_still_shows_and_links_still_lead(
    make_mail: MakeMail, make_client: MakeClient
) -> None:
    mail = await make_mail()
    away = await make_client(database={"url": "postgresql://x:y@127.0.0.1:1/x", "connect_seconds": 1})
    assert (await away.get(mail.open_path(), headers=PERSON)).content == PIXEL
    assert (await away.get(mail.click_path("https://a.example/"), headers=PERSON)).status_code == 302
    answer = await away.post(
        f"/unsubscribe?token={unsubscribe_token(mail.tracking.key, mail.org_id, 'a@b.example')}", data=ONE_CLICK
    )
    assert_error(answer, 503, "service_unavailable")
    await _tracks(away).drain(0)


async def test_a_hammered_image_fills_nothing(make_mail: MakeMail, admin: asyncpg.Connection) -> None:
    mail = await make_mail()
    await mail.open()
    await _tracks(mail.client).drain(60)
    # the hour does not end while this test runs
    await admin.execute("UPDATE engagements SET hour = hour + interval '1 hour' WHERE email_id = $1", mail.id)
    for number in (69, 70, 70):
        await asyncio.gather(*(mail.open() for _ in range(number)))
        await _tracks(mail.client).drain(60)
    assert len(await mail.events()) == track.EVENTS_AN_HOUR
    assert (
        await admin.fetchval("SELECT left_out FROM engagements WHERE email_id = $1", mail.id)
        == 210 - track.EVENTS_AN_HOUR
    )


async def test_what_is_no_more_and_what_is_anothers_is_not_recorded(
    make_mail: MakeMail, make_org: Callable[[], Awaitable[UUID]], admin: asyncpg.Connection
) -> None:
    mail = await make_mail()
    for org_id, email_id in ((mail.org_id, uuid7()), (await make_org(), mail.id)):
        answer = await mail.client.get(open_url(mail.tracking, org_id, email_id), headers=PERSON)
        assert answer.status_code == 200
    await mail.open()
    assert len(await mail.events()) == 1
    assert await admin.fetchval("SELECT count(*) FROM engagements") == 1


async def test_a_webhook_gets_it_without_what_only_metrics_read(
    make_mail: MakeMail, api: httpx.AsyncClient, admin: asyncpg.Connection
) -> None:
    from mailcore.events import Event, payload

    made = await api.post("/webhooks", json={"endpoint": "https://hook.example/", "events": ["email.clicked"]})
    assert made.status_code == 201, made.text
    mail = await make_mail()
    await mail.click()
    await mail.events()
    assert await admin.fetchval("SELECT count(*) FROM webhook_queue") == 1
    row = await admin.fetchrow("SELECT * FROM events WHERE type = 'email.clicked'")
    subject = await admin.fetchrow("SELECT * FROM emails WHERE id = $1", mail.id)
    assert row is not None and row["detail"]["first"]
    event = Event(row["id"], row["type"], row["created_at"], row["recipients"], row["detail"])
    data = payload(event, subject)["data"]
    assert (
        data["to"] == ["you@example.com"] and data["click"]["link"].startswith("https://shop") and "first" not in data
    )


# ---- D3 --------------------------------------------------------------------------------------------------------------


async def _rows(admin: asyncpg.Connection) -> list[asyncpg.Record]:
    return list(await admin.fetch("SELECT * FROM unsubscribes"))


async def test_one_click_unsubscribes_and_twice_is_once(
    make_mail: MakeMail, admin: asyncpg.Connection, store: Store, org: UUID
) -> None:
    mail = await make_mail()
    token = unsubscribe_token(mail.tracking.key, org, "Ann@Example.COM", email_id=mail.id)
    headers = unsubscribe_headers("https://links.example.com", token)
    path = headers["List-Unsubscribe"].removeprefix("<https://links.example.com").removesuffix(">")
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    for method in ("GET", "HEAD"):
        answer = await mail.client.request(method, path)
        assert answer.status_code == 200
    page = await mail.client.get(path)
    assert "<script" not in page.text and '<form method="post">' in page.text and "ann@example.com" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert await _rows(admin) == [], "looking at the page changes nothing"
    answers = [await mail.client.post(path, data=ONE_CLICK), await mail.client.post(path, data=ONE_CLICK)]
    answers += await asyncio.gather(
        *(mail.client.post(path, files={"List-Unsubscribe": (None, "One-Click")}) for _ in range(5))
    )
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
    assert not any(name in answer.headers for answer in answers for name in ("location", "set-cookie"))
    (row,) = await _rows(admin)
    assert (row["org_id"], row["recipient"], row["list_id"], row["email_id"]) == (org, "ann@example.com", ALL, mail.id)
    topic, other = uuid7(), uuid7()
    asked = [
        (org, "ann@example.com", topic),
        (org, "ann@example.com", ALL),
        (org, "bob@example.com", ALL),
        (other, "ann@example.com", ALL),
    ]
    for block in (store.door(), store.worker()):
        async with block as db:
            assert await unsubscribed(db, asked) == set(asked[:2])
    async with store.tenant(org) as db:
        assert await unsubscribed(db, asked) == set(asked[:2])
        assert await remove(db, "ann@example.com", ALL)
        assert await unsubscribed(db, asked) == set()


async def test_a_topic_is_left_alone_and_not_the_rest(make_mail: MakeMail, store: Store, org: UUID) -> None:
    mail = await make_mail()
    topic = uuid7()
    token = unsubscribe_token(mail.tracking.key, org, "ann@example.com", list_id=topic)
    assert (await mail.client.post(f"/unsubscribe?token={token}", data=ONE_CLICK)).status_code == 200
    asked = [(org, "ann@example.com", topic), (org, "ann@example.com", ALL), (org, "ann@example.com", uuid7())]
    async with store.tenant(org) as db:
        assert await unsubscribed(db, asked) == {asked[0]}


async def test_what_does_not_unsubscribe(make_mail: MakeMail, admin: asyncpg.Connection, org: UUID) -> None:
    mail = await make_mail()
    key = mail.tracking.key
    good = unsubscribe_token(key, org, "ann@example.com")
    for body in ({}, {"List-Unsubscribe": "Yes"}, {"x": "One-Click"}):
        assert_error(
            await mail.client.post(f"/unsubscribe?token={good}", data=body), 400, "validation_error", "One-Click"
        )
    assert_error(await mail.client.post(f"/unsubscribe?token={good}", content=b"a" * 5000), 413, "validation_error")
    foreign = unsubscribe_token(Keyring([b"x" * 32]).derive("track"), org, "ann@example.com")
    opened = mail.open_path().rpartition("/")[2]
    for token in (
        foreign,
        opened,
        good[:-1],
        good + "A",
        "",
        "a" * 9000,
        "%00",
        unsubscribe_token(key, uuid7(), "a@b.example"),
    ):
        for method in ("GET", "POST"):
            if method == "GET" and token and len(token) == len(unsubscribe_token(key, uuid7(), "a@b.example")):
                continue  # the page of an organization that is gone: its button says so
            answer = await mail.client.request(
                method, f"/unsubscribe?token={token}", data=ONE_CLICK if method == "POST" else None
            )
            assert answer.status_code in (404, 422), (method, token[:40], answer.text)
    assert (await mail.client.post("/unsubscribe", data=ONE_CLICK)).status_code == 404
    assert await _rows(admin) == []


async def test_nothing_of_a_recipient_becomes_markup(make_mail: MakeMail, org: UUID) -> None:
    mail = await make_mail()
    token = unsubscribe_token(mail.tracking.key, org, '"<script>alert(1)</script>"@example.com')
    assert "<script" not in (await mail.client.get(f"/unsubscribe?token={token}")).text
