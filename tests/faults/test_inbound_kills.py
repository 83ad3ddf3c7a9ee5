"""R3: inbound-smtp is killed again and again under a sender that retries. Every 250 is kept, nothing is stored or routed twice.

The sender takes a mail for handed over only when it has read 250, as any mail server does; what it repeats after a kill may
have been stored already. POSTROOM_FAULTS_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import smtplib
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from stack import Stack, wait_for

SEED = int(os.environ.get("POSTROOM_FAULTS_SEED") or random.randrange(1 << 30))
MAILS, KILLS, SENDERS = 2_000, 10, 8
ENV = {
    "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
    "POSTROOM_QUEUE__LEASE_SECONDS": "2",
    "POSTROOM_QUEUE__SWEEP_SECONDS": "0.5",
}


class Sender:
    """Hands over each mail until it has read 250 for it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.accepted: set[int] = set()
        self.tries: Counter[int] = Counter()
        self.stop_at = time.monotonic() + 300

    def hand_over(self, numbers: list[int]) -> None:
        client: smtplib.SMTP | None = None
        for number in numbers:
            size = 150_000 if number % 20 == 0 else 200
            body = f"Subject: {number}\r\nMessage-ID: <{number}@faults>\r\n\r\n".encode() + b"x" * size + b"\r\n"
            while number not in self.accepted:
                if time.monotonic() > self.stop_at:
                    return
                self.tries[number] += 1
                try:
                    if client is None:
                        host, _, port = self.stack.dev["mx"].partition(":")
                        client = smtplib.SMTP(host, int(port), timeout=20)
                    client.sendmail("a@sender.example", ["box@postroom.test"], body)
                    self.accepted.add(number)
                except (OSError, smtplib.SMTPException, ValueError):
                    client = None
                    time.sleep(0.05)  # a sender's pause between tries, not a wait for a state
        if client is not None:
            client.close()


def _all(stack: Stack, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with httpx.Client(
        base_url=stack.dev["api_url"], headers={"authorization": f"Bearer {stack.dev['api_key']}"}
    ) as api:
        more = True
        while more:
            after = f"&after={found[-1]['id']}" if found else ""
            page = api.get(f"{path}?limit=100{after}").raise_for_status().json()
            found += page["data"]
            more = page["has_more"]
    return found


@pytest.mark.timeout(600)
def test_every_250_is_kept_once(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with Stack(tmp_path, env=ENV) as stack:
        sender = Sender(stack)
        with ThreadPoolExecutor(SENDERS) as pool:
            for start in range(SENDERS):
                pool.submit(sender.hand_over, list(range(start, MAILS, SENDERS)))
            pause = threading.Event()
            for kill in range(KILLS):
                # the kills are spread over the mails, so that each hits a sender at work
                wanted = int(MAILS * (kill + chance.random()) / (KILLS + 1))
                wait_for(lambda wanted=wanted: len(sender.accepted) >= wanted, f"{wanted} mails accepted", 120)
                pause.wait(chance.uniform(0, 0.2))
                stack.kill("inbound-smtp")
        accepted = len(sender.accepted)
        wait_for(
            lambda: all(row["state"] != "received" for row in _all(stack, "/v1/arrivals")), "everything is routed", 60
        )
        arrivals, messages = _all(stack, "/v1/arrivals"), _all(stack, "/v1/messages")
    stored = Counter(int(row["subject"]) for row in arrivals if row["subject"])
    routed = Counter(message["arrival_id"] for message in messages)
    print(
        f"seed {SEED}: accepted {accepted}, stored {len(stored)}, kills {KILLS}, repeated by the sender "
        f"{sum(tries > 1 for tries in sender.tries.values())}, stored twice {sum(n > 1 for n in stored.values())}"
    )
    assert accepted == MAILS
    assert sum(tries > 1 for tries in sender.tries.values()) > 0, "no kill hit anything"
    assert {row["state"] for row in arrivals} == {"routed"}
    assert stored == Counter(range(MAILS))
    assert routed == Counter(row["id"] for row in arrivals)
