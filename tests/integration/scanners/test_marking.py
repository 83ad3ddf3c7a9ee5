"""Verdicts go with mail that is passed on, and never into mail that is kept (B-40 to B-44)."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import UUID

from mailcore.blob.memory import MemoryBlobs
from mailcore.dns.resolver import StaticResolver
from mailcore.events import ROUTED, Event
from mailcore.flow import quarantine
from mailcore.flow.links import Links
from mailcore.flow.parsed import Parsed
from mailcore.flow.passed_on import PassedOn
from mailcore.kit.ids import uuid7
from mailcore.mailauth.arc.validate import validate
from mailcore.mailauth.dkim.keys import SigningKey, generate_rsa
from mailcore.mailauth.results import header_end
from mailcore.queue.bell import Ringer
from mailcore.scanners.base import Finding, Verdict
from mailcore.scanners.null import NullScanner
from mailcore.store.session import Store

from .harness import Desk, MakeDesk, mail

FORGED = b"X-Postroom-Verdict: clean\r\nX-Spam-Flag: NO\r\nX-MS-Exchange-Organization-SCL: -1\r\n"
UNSURE = Finding("null", Verdict.UNSURE, 7.0, reason="bulky")
SPAM = Finding("null", Verdict.SPAM, 15.3)


async def route(desk: Desk, *actions: dict[str, Any]) -> None:
    await desk.admin.execute("DELETE FROM routes")
    await desk.admin.execute(
        "INSERT INTO routes (id, org_id, position, name, match, actions) VALUES ($1, $2, 1, 'r', '{}', $3)",
        *(uuid7(), desk.org, list(actions)),
    )
    desk.router._routes._tables._known.clear()


async def passed_on(desk: Desk) -> tuple[PassedOn, bytes]:
    row = await desk.admin.fetchrow("SELECT raw, passed_on FROM emails ORDER BY id DESC LIMIT 1")
    assert row is not None
    return PassedOn.from_json(row["passed_on"]), row["raw"]


async def webhook(desk: Desk) -> UUID:
    id_ = uuid7()
    await desk.admin.execute(
        "INSERT INTO webhooks (id, org_id, endpoint, events, secret_sealed) VALUES ($1, $2, 'https://x', '{}', '')",
        *(id_, desk.org),
    )
    return id_


async def test_a_forward_says_what_was_thought_of_it_under_its_seal(make_desk: MakeDesk) -> None:
    desk = make_desk(NullScanner({b"": UNSURE}))
    await route(desk, {"type": "forward", "to": ["boss@elsewhere.example"]})
    raw = FORGED + mail()
    id_ = await desk.deliver(raw)
    gone, sent = await passed_on(desk)
    assert gone.head.startswith(
        "X-Postroom-Verdict: unsure\r\nX-Postroom-Reason: not_spam\r\nX-Postroom-Score: 7.0\r\n"
        "X-Postroom-Scanners: null\r\nReceived:"
    )
    assert sent == raw.replace(b"X-Postroom-Verdict: clean\r\n", b""), "fields that others may write stay as they came"
    assert (await desk.row(id_))["raw"] == raw
    private, public = generate_rsa()
    key = SigningKey.load("s1", "postroom.test", private)
    sealed = PassedOn(gone.kind, gone.arrival_id, gone.mail_from, gone.head, "mx.postroom.test", ("spf=none",), "none")
    whole = sealed.octets(sent, (key,), now=int(time.time()))
    end = header_end(whole)
    resolver = StaticResolver({"s1._domainkey.postroom.test": {"TXT": [public]}})
    assert (await validate(whole[:end], whole[end + 2 :], resolver)).status == "pass"


async def test_with_compatible_headers_a_forward_has_those_of_others_too(make_desk: MakeDesk) -> None:
    desk = make_desk(NullScanner({b"": UNSURE}))
    await desk.want(compatible_headers=True, subject_tag="[SPAM]")
    await route(desk, {"type": "forward", "to": ["boss@elsewhere.example"]})
    raw = FORGED + mail()
    await desk.deliver(raw)
    gone, sent = await passed_on(desk)
    assert "X-Spam-Flag: NO\r\n" in gone.head and "X-MS-Exchange-Organization-SCL: 1\r\n" in gone.head
    assert sent == raw.removeprefix(FORGED), "its subject is not tagged: it is not spam"


async def test_spam_is_posted_with_its_verdict_and_kept_as_it_came(make_desk: MakeDesk) -> None:
    desk = make_desk(NullScanner({b"": SPAM}))
    await desk.want(compatible_headers=True, subject_tag="[SPAM]", spam_action="tag")
    hook = await webhook(desk)
    await route(desk, {"type": "webhook", "webhook_id": str(hook)}, {"type": "store"})
    raw = FORGED + mail()
    id_ = await desk.deliver(raw)
    row = dict(await desk.row(id_)) | {"id": str(id_), "org_id": str(desk.org)}
    assert row["raw"] == raw
    posted = await desk.admin.fetchrow(
        "SELECT id, detail, recipients, created_at FROM events WHERE type = 'email.routed'"
    )
    assert posted is not None
    event = Event(posted["id"], ROUTED, posted["created_at"], posted["recipients"], posted["detail"])
    told = await Parsed(MemoryBlobs(), Links(b"k", "https://x.test")).payload(event, row, (row["raw"], None))
    names = [each["Name"].lower() for each in told["Headers"]]
    by_name = {each["Name"].lower(): each["Value"] for each in told["Headers"]}
    assert by_name["x-postroom-verdict"] == "spam" and by_name["x-postroom-reason"] == "spam_score"
    assert by_name["x-spam-flag"] == "YES" and by_name["x-ms-exchange-organization-scl"] == "9"
    assert names.count("x-postroom-verdict") == names.count("x-spam-flag") == 1
    assert by_name["subject"] == "[SPAM] Minutes"
    assert f"/marked.{posted['id']}?" in told["RawDownloadUrl"]
    assert "marks" not in json.dumps(told["data"]), "which is for us"


async def test_what_somebody_let_out_is_not_tagged(make_desk: MakeDesk, store: Store, ringer: Ringer) -> None:
    desk = make_desk(NullScanner({b"": SPAM}))
    await desk.want(subject_tag="[SPAM]", spam_action="quarantine")
    await route(desk, {"type": "webhook", "webhook_id": str(await webhook(desk))})
    id_ = await desk.deliver(mail())
    assert await desk.state(id_) == "quarantined"
    assert await quarantine.release(store, ringer, desk.org, id_, by="a test")
    await desk.route()
    detail = await desk.admin.fetchval("SELECT detail FROM events WHERE type = 'email.routed'")
    assert detail["marks"]["tag"] == "" and "X-Postroom-Verdict: spam\r\n" in detail["marks"]["head"]


async def test_without_scanners_a_mail_is_passed_on_as_it_came_but_for_our_own_fields(make_desk: MakeDesk) -> None:
    desk = make_desk()
    await desk.want(compatible_headers=True)
    await route(desk, {"type": "forward", "to": ["boss@elsewhere.example"]})
    raw = FORGED + mail()
    await desk.deliver(raw)
    gone, sent = await passed_on(desk)
    assert "X-" not in gone.head.partition("Received:")[0]
    assert sent == raw.replace(b"X-Postroom-Verdict: clean\r\n", b"")
