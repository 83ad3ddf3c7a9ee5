"""Mailboxes, messages, threads and search over the API: real mail, received and routed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from mailcore import blob
from mailcore.flow import threads
from mailcore.flow.lease import WorkerLease
from mailcore.flow.receive import Arrival, Receives
from mailcore.flow.route import Routes
from mailcore.kit.ids import uuid7
from mailcore.mime.parse import Message
from mailcore.queue.bell import Ringer
from mailcore.smtp.envelope import Envelope
from mailcore.store import arrivals, search
from mailcore.store.messages import RoutedMessage
from mailcore.store.session import Store

from .harness import PATIENT, MakeClient, MakeKey, assert_error

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
Deliver = Callable[..., Awaitable[None]]
_count = iter(range(10_000))


def mail(
    subject: str = "Hello",
    text: str = "Just text",
    *,
    from_: str = "Ann Lee <ann@sender.example>",
    to: str = "support@postroom.test",
    message_id: str = "",
    **headers: str,
) -> bytes:
    fields = {
        "From": from_,
        "To": to,
        "Subject": subject,
        "Message-ID": message_id or f"<{next(_count)}@sender.example>",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + b"\r\n" + text.encode()


@pytest.fixture
def deliver(store: Store, ringer: Ringer, tmp_path: Path) -> Deliver:
    blobs = blob.open((tmp_path / "blobs").as_uri())
    receives, routes = Receives(store, ringer, blobs), Routes(store, ringer, blobs, patience=PATIENT)

    async def deliver(org: UUID, *raw: bytes, to: str = "support@postroom.test", at_once: bool = False) -> None:
        """One after the other, or routed as one batch."""
        lease = WorkerLease(store, "inbound_smtp")
        await lease.enrol()

        async def route(most: int) -> None:
            async with store.worker() as db:
                claimed = await arrivals.claim(db, lease.id, most)
            assert await routes.route(lease.id, claimed) == most

        for one in raw:
            arrival = Arrival(
                one, Envelope("x@sender.example", (to,)), {"helo": "x"}, "192.0.2.7", None, "smtp", {org: [to]}
            )
            await receives.receive(arrival)
            await asyncio.sleep(0.002)  # of what came within one millisecond nobody knows the order
            if not at_once:
                await route(1)
        if at_once:
            await route(len(raw))

    return deliver


async def _listed(api: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    answer = await api.get(path)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


# ---- mailboxes -------------------------------------------------------------------------------------------------------


async def test_mailboxes(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    made = await api.post("/v1/mailboxes", json={"address": "Büro@PostRoom.test", "display_name": "Office"})
    assert made.status_code == 201, made.text
    box = made.json()
    assert (box["object"], box["address"], box["display_name"]) == ("mailbox", "büro@postroom.test", "Office")
    assert (box["unread"], box["last_received_at"], box["account_id"]) == (0, None, None)
    again = await api.post("/v1/mailboxes", json={"address": "bÜro@postroom.test"})
    assert_error(again, 409, "resource_locked", "already")
    for address, word in (("a@elsewhere.example", "no domain"), ("a+b@postroom.test", "tag"), ("x", "address")):
        assert_error(await api.post("/v1/mailboxes", json={"address": address}), 422, "validation_error", word)
    await deliver(org, mail(), mail())
    listed = await _listed(api, "/v1/mailboxes")
    assert [(one["address"], one["unread"]) for one in listed] == [
        ("support@postroom.test", 2),
        ("büro@postroom.test", 0),
    ]
    id_ = listed[0]["id"]
    renamed = (await api.patch(f"/v1/mailboxes/{id_}", json={"display_name": "Support"})).json()
    assert (renamed["id"], renamed["display_name"]) == (id_, "Support")
    assert (await api.get(f"/v1/mailboxes/{id_}")).json() == renamed
    assert (await api.delete(f"/v1/mailboxes/{id_}")).json() == {"object": "mailbox", "id": id_, "deleted": True}
    assert await _listed(api, "/v1/messages") == []
    assert await _listed(api, "/v1/threads") == []
    for call in (api.get, api.delete):
        assert_error(await call(f"/v1/mailboxes/{id_}"), 404, "not_found", "Mailbox")


# ---- messages --------------------------------------------------------------------------------------------------------

MULTIPART = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>, ceo@bank.example\r\nTo: support@postroom.test\r\n"
    b"Subject: Offer\r\nMessage-ID: <offer@sender.example>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
    b'<p onclick="alert(1)" style="color:red;background:url(http://tracker.example/c.png)">Gr\xc3\xbc\xc3\x9fe '
    b'<img src="cid:img"><img src="http://tracker.example/p.png?a=1&amp;b=2" alt="logo"><script>alert(1)</script></p>\r\n'
    b"--b\r\nContent-Type: image/png\r\nContent-ID: <img>\r\nContent-Disposition: inline; filename=a.png\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(PNG).replace(b"\n", b"\r\n") + b"\r\n"
    b"--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=terms.pdf\r\n\r\n%PDF\r\n--b--\r\n"
)


async def test_a_message_with_its_content(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    await deliver(org, MULTIPART)
    (listed,) = await _listed(api, "/v1/messages")
    assert (listed["from"], listed["subject"], listed["snippet"]) == (
        "Jürgen <j@sender.example>",
        "Offer",
        "Grüße logo",
    )
    assert (listed["read"], listed["starred"], listed["attachment_count"]) == (False, False, 1)
    assert listed["doubts"] == ["several_authors"]
    one = (await api.get(f"/v1/messages/{listed['id']}")).json()
    assert {name: one[name] for name in listed} == listed
    image = base64.b64encode(PNG).decode()
    clean = f'<p style="color:red">Grüße <img src="data:image/png;base64,{image}"><img alt="logo"></p>'
    assert one["html"].strip() == clean
    assert "tracker" not in one["html"]
    assert (one["text"], one["remote_images"], one["images"], one["thread_by"]) == ("Grüße logo", 2, "block", "new")
    assert [file["filename"] for file in one["attachments"]] == ["a.png", "terms.pdf"]
    assert one["headers"]["subject"] == "Offer"
    anybody = {"authorization": ""}
    got = await api.get(one["attachments"][1]["download_url"].replace("http://127.0.0.1:8080", ""), headers=anybody)
    assert (got.status_code, got.content) == (200, b"%PDF")
    raw = await api.get(one["raw"]["download_url"].replace("http://127.0.0.1:8080", ""), headers=anybody)
    assert raw.content == MULTIPART
    linked = (await api.get(f"/v1/messages/{listed['id']}?inline=link")).json()["html"]
    assert "data:" not in linked
    assert "/v1/downloads/received/" in linked
    for query in ("inline=x", "images=yes"):
        assert_error(await api.get(f"/v1/messages/{listed['id']}?{query}"), 422, "invalid_parameter")


async def test_flags_lists_and_pages(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    await deliver(org, *(mail(f"n{n}") for n in range(5)))
    everything = await _listed(api, "/v1/messages")
    assert [one["subject"] for one in everything] == ["n4", "n3", "n2", "n1", "n0"]
    ids = [one["id"] for one in everything]
    read = (await api.patch(f"/v1/messages/{ids[0]}", json={"read": True, "starred": True})).json()
    assert (read["read"], read["starred"], sorted(read["flags"])) == (True, True, ["\\Flagged", "\\Seen"])
    assert (await api.patch(f"/v1/messages/{ids[0]}", json={"starred": False})).json()["flags"] == ["\\Seen"]
    many = await api.post("/v1/messages/flags", json={"ids": [ids[1], str(uuid7())], "read": True})
    assert many.json() == {"object": "flags", "ids": [ids[1]]}
    assert [one["id"] for one in await _listed(api, "/v1/messages?unread=true")] == ids[2:]
    assert [one["id"] for one in await _listed(api, "/v1/messages?unread=false")] == ids[:2]
    assert await _listed(api, "/v1/messages?starred=true") == []
    page = (await api.get(f"/v1/messages?limit=2&after={ids[1]}")).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[2:4], True)
    page = (await api.get(f"/v1/messages?limit=2&before={ids[3]}&mailbox_id={read['mailbox_id']}")).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[1:3], True)
    assert (await api.delete(f"/v1/messages/{ids[1]}")).status_code == 200
    assert_error(await api.get(f"/v1/messages/{ids[1]}"), 404, "not_found", "Message")
    # the cursor's row is gone: its id still says when it was
    assert [one["id"] for one in await _listed(api, f"/v1/messages?after={ids[1]}")] == ids[2:]
    for body in ({}, {"read": "yes"}, {"read": None}):
        assert_error(await api.patch(f"/v1/messages/{ids[0]}", json=body), 422, "validation_error")
    for body in ({"read": True}, {"ids": ["x"], "read": True}, {"ids": [ids[0]], "thread_id": ids[0], "read": True}):
        assert (await api.post("/v1/messages/flags", json=body)).status_code == 422
    assert_error(await api.get("/v1/messages?unread=maybe"), 422, "invalid_parameter")


async def test_another_organization_sees_and_finds_nothing(
    api: httpx.AsyncClient,
    org: UUID,
    deliver: Deliver,
    make_org: Callable[[], Awaitable[UUID]],
    make_key: MakeKey,
    make_client: MakeClient,
    store: Store,
) -> None:
    await deliver(org, mail("secret", "a secret"))
    (mine,) = await _listed(api, "/v1/messages")
    stranger = await make_org()
    theirs = await make_client(await make_key(stranger))
    for path in (
        "/v1/messages",
        "/v1/threads",
        "/v1/mailboxes",
        "/v1/messages/search?q=secret",
        "/v1/messages/search?q=is:unread",
    ):
        assert await _listed(theirs, path) == [], path
    for path in (
        f"/v1/messages/{mine['id']}",
        f"/v1/threads/{mine['thread_id']}",
        f"/v1/mailboxes/{mine['mailbox_id']}",
    ):
        assert (await theirs.get(path)).status_code == 404, path
    flagged = await theirs.post("/v1/messages/flags", json={"thread_id": mine["thread_id"], "read": True})
    assert flagged.json()["ids"] == []
    assert (await theirs.delete(f"/v1/messages/{mine['id']}")).status_code == 404
    assert (await _listed(api, "/v1/messages"))[0]["read"] is False
    # not even who may call the function finds another's mail
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with store.tenant(stranger) as db:
            await db.fetch(
                "SELECT * FROM search_messages($1, '''~secret''', NULL, '-infinity', 'infinity', $2, NULL, NULL, 10, '1s')",
                org,
                uuid7(),
            )


# ---- threads ---------------------------------------------------------------------------------------------------------


async def _threads(api: httpx.AsyncClient) -> list[set[str]]:
    """Subjects of the messages of each thread, the newest thread first."""
    return [
        {one["subject"] for one in await _listed(api, f"/v1/messages?thread_id={thread['id']}")}
        for thread in await _listed(api, "/v1/threads")
    ]


async def test_a_thread_by_references_whatever_comes_first(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    await deliver(
        org,
        mail("Offer", message_id="<a@x.example>"),
        mail(
            "AW: Offer",
            message_id="<c@x.example>",
            In_Reply_To="<b@x.example>",
            References="<a@x.example> <b@x.example>",
        ),
        mail("something else"),
        mail("Re: Offer", message_id="<b@x.example>"),  # named before it came
        mail("Other subject", References="<unknown@x.example> <c@x.example>", from_="new@other.example"),
    )
    assert await _threads(api) == [{"Offer", "AW: Offer", "Re: Offer", "Other subject"}, {"something else"}]
    thread = (await _listed(api, "/v1/threads"))[0]
    assert (thread["subject"], thread["messages"], thread["unread"]) == ("Offer", 4, 4)
    assert set(thread["participants"]) == {"ann@sender.example", "support@postroom.test", "new@other.example"}
    assert thread["from"] == "new@other.example"
    by = {
        one["subject"]: (await api.get(f"/v1/messages/{one['id']}")).json()["thread_by"]
        for one in await _listed(api, "/v1/messages")
    }
    assert by == {
        "Offer": "new",
        "AW: Offer": "references",
        "something else": "new",
        "Re: Offer": "message_id",
        "Other subject": "references",
    }
    done = await api.post("/v1/messages/flags", json={"thread_id": thread["id"], "read": True})
    assert len(done.json()["ids"]) == 4
    assert (await api.get(f"/v1/threads/{thread['id']}")).json()["unread"] == 0
    assert [one["subject"] for one in await _listed(api, "/v1/threads?unread=true")] == ["something else"]
    for one in await _listed(api, f"/v1/messages?thread_id={thread['id']}"):
        await api.delete(f"/v1/messages/{one['id']}")
    assert_error(await api.get(f"/v1/threads/{thread['id']}"), 404, "not_found", "Thread")
    # what led to it leads nowhere now
    await deliver(org, mail("Re: Offer", In_Reply_To="<a@x.example>"))
    assert (await _threads(api))[0] == {"Re: Offer"}


async def test_a_subject_only_of_an_answer_of_somebody_who_takes_part(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, admin: asyncpg.Connection
) -> None:
    await deliver(org, mail("Invoice"), mail("Invoice"), mail("Invoice", from_="bob@other.example"))
    assert len(await _threads(api)) == 3, "the same subject alone glues nothing together"
    await deliver(org, mail("Re: invoice", from_="bob@other.example"))
    assert (await _listed(api, "/v1/threads"))[0]["messages"] == 2
    await deliver(org, mail("Re: Invoice", from_="eve@stranger.example"))
    assert len(await _threads(api)) == 4, "who does not take part begins a thread"
    await admin.execute(
        "UPDATE threads SET last_at = last_at - interval '91 days', first_at = first_at - interval '91 days'"
    )
    await deliver(org, mail("Re: Invoice", from_="eve@stranger.example"))
    assert len(await _threads(api)) == 5, "and after 90 days so does anybody"


async def test_outlooks_conversation_and_two_mailboxes(api: httpx.AsyncClient, org: UUID, deliver: Deliver) -> None:
    index = base64.b64encode(bytes(range(22))).decode()
    answer = base64.b64encode(bytes(range(27))).decode()
    await deliver(org, mail("Plan", Thread_Index=index), mail("AW: Plan", Thread_Index=answer, from_="x@y.example"))
    await deliver(org, mail("Another", Thread_Index=answer))
    assert await _threads(api) == [{"Another"}, {"Plan", "AW: Plan"}]
    await deliver(org, mail("Re: Plan", Thread_Index=answer, message_id="<p@x.example>"), to="sales@postroom.test")
    await deliver(org, mail("Re: Plan 2", In_Reply_To="<p@x.example>"))
    assert len(await _threads(api)) == 4, "a mailbox knows nothing of another's threads"


async def test_threads_within_a_batch_and_of_two_routers(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, store: Store
) -> None:
    chain = [
        mail(f"c{n}", message_id=f"<c{n}@x.example>", **({"In_Reply_To": f"<c{n - 1}@x.example>"} if n else {}))
        for n in range(8)
    ]
    await deliver(org, *chain, at_once=True)
    assert await _threads(api) == [{f"c{n}" for n in range(8)}]
    (box,) = await _listed(api, "/v1/mailboxes")
    summaries = [Message(mail(f"a{n}", References="<unseen@x.example>")).summary() for n in range(2)]
    first, second = (
        RoutedMessage(
            *(uuid7(), org, UUID(box["id"]), uuid7(), None, None, [], [], found.subject, None, 1, datetime.now(UTC)),
            related=threads.related(found),
        )
        for found in summaries
    )
    async with store.worker() as one:
        (before,) = await threads.assign(one, [first])

        async def assign() -> RoutedMessage:
            async with store.worker() as other:
                (after,) = await threads.assign(other, [second])
            return after

        waiting = asyncio.create_task(assign())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done, "it waits for who was first with the key"
    after = await waiting
    assert (before.thread_by, after.thread_by) == ("new", "references")
    assert after.thread_id == before.thread_id


async def test_a_thread_is_full_some_day(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailcore.flow.threads.MAX_MESSAGES", 3)
    alerts = [mail(f"alert {n}", References="<alerts@x.example>") for n in range(8)]
    await deliver(org, *alerts[:4], at_once=True)
    await deliver(org, *alerts[4:])
    assert [len(each) for each in await _threads(api)] == [2, 3, 3]


# ---- search ----------------------------------------------------------------------------------------------------------


async def test_search_as_people_type_it(
    api: httpx.AsyncClient, org: UUID, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "PATIENCE", timedelta(minutes=1))  # to the end, however busy the machine
    await deliver(
        org,
        mail("Quarterly report", "The figures of Müller & Söhne are in: 1,234.50 EUR", message_id="<q1@x.example>"),
        mail("Report of bugs", "nothing quarterly about it", from_="Bob <bob@mail.other.example>", Cc="eve@x.example"),
        mail("日本語の件名", "東京タワーに行きました"),
        MULTIPART,
    )
    await deliver(org, mail("Quarterly report", "for sales"), to="sales@postroom.test")
    newest = (await _listed(api, "/v1/messages"))[0]

    async def found(q: str, **more: str) -> list[str]:
        answer = await api.get("/v1/messages/search", params={"q": q} | more)
        assert answer.status_code == 200, answer.text
        return [one["subject"] for one in answer.json()["data"]]

    sales, offer, japan, bugs, report = (
        "Quarterly report",
        "Offer",
        "日本語の件名",
        "Report of bugs",
        "Quarterly report",
    )
    for q, wanted in {
        "quarterly": [sales, bugs, report],
        "quarterly report": [sales, bugs, report],
        '"quarterly report"': [sales, report],
        "subject:quarterly -sales": [report],
        "MULLER söhne": [report],
        "müll*": [report],
        "1,234.50": [report],
        "from:bob": [bugs],
        "from:other.example": [bugs],
        "from:bob@mail.other.example": [bugs],
        "from:example.com": [],
        "to:eve@x.example": [bugs],
        "to:sales@postroom.test": [sales],
        "東京": [japan],
        "東京タワー": [japan],
        "京東": [],
        "subject:日本": [japan],
        "has:attachment": [offer],
        "-has:attachment quarterly": [sales, bugs, report],
        "filename:terms": [offer],
        "filename:terms.pdf": [offer],
        "in:sales@postroom.test report": [sales],
        "in:sales@postroom.test": [sales],
        "in:nobody@postroom.test report": [],
        "bugs OR sales": [sales, bugs],
        "is:read report": [],
        "is:unread report": [sales, bugs, report],
        "is:starred": [],
        "after:2020-01-01 before:2100/1/1 quarterly": [sales, bugs, report],
        "before:2020-01-01 quarterly": [],
        "https://nothing": [],
        "quarterly !!! &&& ' \\ ~": [sales, bugs, report],
    }.items():
        assert await found(q) == wanted, q
    assert await found("quarterly", mailbox_id=newest["mailbox_id"]) == [sales]
    await api.patch(f"/v1/messages/{newest['id']}", json={"read": True, "starred": True})
    assert await found("is:read report") == await found("is:starred report") == await found("is:starred") == [sales]
    page = (await api.get("/v1/messages/search", params={"q": "quarterly", "limit": "2"})).json()
    assert (page["has_more"], page["next"]) == (True, page["data"][1]["id"])
    rest = await api.get("/v1/messages/search", params={"q": "quarterly", "after": page["next"]})
    assert ([one["subject"] for one in rest.json()["data"]], rest.json()["next"]) == ([report], None)
    for q in ("-report", "before:soon", "before:2026-02-30", "is:mine", "has:fun", "x" * 501, "a " * 31):
        assert_error(await api.get("/v1/messages/search", params={"q": q}), 422, "invalid_parameter")
    assert_error(await api.get("/v1/messages/search"), 422, "missing_required_parameter")
    for q in ("' in:' \u200b \ud7ff", ":* | !! <->", "a\\", "from:a\\'b@c ~m:x", "-' a", "(a) & b"):
        assert (await api.get("/v1/messages/search", params={"q": q})).status_code == 200, q
    await api.delete(f"/v1/messages/{newest['id']}")
    assert await found("quarterly") == [bugs, report]
