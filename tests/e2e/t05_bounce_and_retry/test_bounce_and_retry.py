"""Refused for good: bounced at once. Refused for now: tried again by the schedule, delivered when it is taken, else given up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from fakes.smtp_server import SmtpServer, Step
from stack import Stack, wait_for


def _send(api: httpx.Client, to: str) -> str:
    answer = api.post("/emails", json={"from": "hello@postroom.test", "to": to, "subject": "s", "text": "t"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def _delivery(api: httpx.Client, id_: str, *states: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        [found] = api.get(f"/v1/emails/{id_}/deliveries").json()["data"]
        return found if found["state"] in states else None

    return wait_for(reached, f"{id_} is {states}")


def test_a_permanent_refusal_bounces_at_once(api: httpx.Client) -> None:
    id_ = _send(api, "550-t05@example.com")
    delivery = _delivery(api, id_, "bounced")
    [attempt] = delivery["attempts"]
    assert (attempt["outcome"], attempt["code"], delivery["next_attempt_at"]) == ("bounced", 550, None)
    assert attempt["reply"]
    assert api.get(f"/emails/{id_}").json()["last_event"] == "bounced"


def test_a_temporary_refusal_is_tried_by_the_schedule_and_then_given_up(api: httpx.Client) -> None:
    id_ = _send(api, "450-t05@example.com")
    delivery = _delivery(api, id_, "expired")
    attempts = [(attempt["outcome"], attempt["code"]) for attempt in delivery["attempts"]]
    assert attempts == [("deferred", 450)] * 3  # at once, and by the schedule's two steps
    assert delivery["next_attempt_at"] is None
    assert api.get(f"/emails/{id_}").json()["last_event"] == "bounced"


async def test_a_temporary_refusal_ends_in_a_delivery_by_mx(tmp_path: Path) -> None:
    """Greylisting: 450, 451 after the dot, then taken. By MX this time, with names from the lab's DNS."""
    script = {
        "rcpt": [Step("450 4.2.0 greylisted"), Step("250 2.1.5 ok")],
        "dot": [Step("451 4.3.0 not now"), Step("250 2.0.0 ok")],
    }
    async with SmtpServer(script) as peer:
        env = {
            "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
            "POSTROOM_QUEUE__SWEEP_SECONDS": "1",
            "POSTROOM_OUTBOUND__ROUTE": "mx",
            "POSTROOM_OUTBOUND__MX_PORT": str(peer.port),
            "POSTROOM_OUTBOUND__RETRY_SCHEDULE": "1,1,1,1",
            **{f"POSTROOM_{name}__PROCESSES": "0" for name in ("INBOUND_SMTP", "IMAP_SYNC", "WEBHOOKS")},
        }
        await asyncio.to_thread(_by_mx, Stack(tmp_path, env=env))
    assert len(peer.commands("RCPT")) == 3
    assert [kept.rcpt_to for kept in peer.caught] == [
        ["grey@t05.test"]
    ] * 2  # the first of them was refused after the dot


def _by_mx(stack: Stack) -> None:
    with stack:
        headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
        with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as api:
            records = [
                {"name": "@", "type": "MX", "value": "10 mx.t05.test"},
                {"name": "mx", "type": "A", "value": "127.0.0.1"},
                {"name": "null", "type": "MX", "value": "0 ."},
            ]
            assert api.put("/v1/lab/dns/t05.test", json={"records": records}).status_code == 200
            delivery = _delivery(api, _send(api, "grey@t05.test"), "delivered")
            assert [attempt["code"] for attempt in delivery["attempts"]] == [450, 451, 250]
            assert [attempt["outcome"] for attempt in delivery["attempts"]] == ["deferred", "deferred", "delivered"]
            assert delivery["attempts"][0]["mx_host"] == "mx.t05.test"
            assert not delivery["possible_duplicate"]
            # RFC 7505: it says itself that it takes no mail; and a name that does not exist
            for address in ("a@null.t05.test", "a@nowhere.t05.test"):
                assert _delivery(api, _send(api, address), "bounced")["attempts"][0]["code"] in (None, 550, 556)
