"""An application's mail goes by its own provider, by the next one when the first refuses the account, and ends in its events."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from fakes.provider_api import ProviderApi
from fakes.provider_posts import SETTINGS, fixture, signed_post
from stack import Stack, wait_for


def _state(api: httpx.Client, email: str, state: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        [found] = api.get(f"/v1/emails/{email}/deliveries").json()["data"]
        return found if found["state"] == state else None

    return wait_for(reached, f"{email} is {state}")


def _story(api: httpx.Client, first: ProviderApi, stack: Stack) -> None:
    ways = {
        kind: api.post("/v1/ways", json={"name": kind, "kind": kind, "settings": SETTINGS[kind]}).json()
        for kind in ("resend", "mailgun")
    }
    order = [ways["resend"]["id"], ways["mailgun"]["id"], "default"]
    made = api.post("/v1/routes-out", json={"ways": order, "tag": {"name": "stream", "value": "t10"}})
    assert made.status_code == 201, made.text

    # without the tag nothing has changed: the catcher has it
    mail = {"from": "hello@postroom.test", "to": "t10@example.com", "subject": "s", "html": "<p>t</p>"}
    plain = api.post("/emails", json=mail).json()["id"]
    _state(api, plain, "delivered")
    assert len(stack.caught(to="t10@example.com")) == 1

    first.answer("suspended_key")
    tagged = api.post("/emails", json=mail | {"tags": [{"name": "stream", "value": "t10"}]}).json()["id"]
    delivery = _state(api, tagged, "relayed")
    assert [attempt["site"] for attempt in delivery["attempts"]] == [ways["resend"]["site"], ways["mailgun"]["site"]]
    assert [attempt["outcome"] for attempt in delivery["attempts"]] == ["deferred", "relayed"]
    assert delivery["attempts"][1]["conversation"][0]["said"].startswith("[way 2 of 3: mailgun:")
    assert api.get(f"/emails/{tagged}").json()["last_event"] == "sent"
    assert len(stack.caught(to="t10@example.com")) == 1
    health = api.get(f"/v1/ways/{ways['resend']['id']}").json()["health"]
    assert health["state"] == "resting" and "suspended" in health["last_reply"]

    # Mailgun's word about it, posted as Mailgun posts
    body = json.dumps(fixture("mailgun", "events")["delivered"]["body"])
    body = body.replace("0190d0c47ea17c3b9f2a6c1de0f4b8a5", UUID(tagged).hex).replace(
        "ada@example.com", "t10@example.com"
    )
    post = signed_post("mailgun", json.loads(body), at=time.time())
    url = httpx.URL(ways["mailgun"]["events_url"]).path
    with httpx.Client(base_url=stack.dev["api_url"], timeout=60) as mailgun:
        assert mailgun.post(url, content=post.body).json() == {"object": "provider_events", "taken": 1}
        assert mailgun.post(url, content=post.body).json() == {"object": "provider_events", "taken": 0}
        assert mailgun.post(url, content=post.body.replace(b"token-1", b"token-2")).status_code == 401
    assert api.get(f"/emails/{tagged}").json()["last_event"] == "delivered"


async def test_mail_goes_by_its_ways_in_order(tmp_path: Path) -> None:
    async with ProviderApi("resend") as resend, ProviderApi("mailgun") as mailgun:
        env = {
            "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
            "POSTROOM_PROVIDERS__RESEND__BASE_URL": resend.url,
            "POSTROOM_PROVIDERS__MAILGUN__BASE_URL": mailgun.url,
            **{f"POSTROOM_{name}__PROCESSES": "0" for name in ("INBOUND_SMTP", "IMAP_SYNC", "WEBHOOKS")},
        }

        def run() -> None:
            with Stack(tmp_path / "stack", env=env) as stack:
                headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
                with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as api:
                    _story(api, resend, stack)

        await asyncio.to_thread(run)
        assert [taken.recipients for taken in mailgun.accepted] == [["t10@example.com"]]
        assert resend.accepted == []
        assert mailgun.accepted[0].body.startswith(b"DKIM-Signature:"), "signed by us, octet for octet"
