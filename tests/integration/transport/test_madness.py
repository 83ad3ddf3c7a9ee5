"""A peer that says anything at any time: whatever it does, the outcomes are true. POSTROOM_TEST_SEEDS for more of it."""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import replace

import pytest

from fakes.smtp_server import SmtpServer, Step, Talk
from mailcore.smtp.outcome import Result
from mailcore.transport.content import PIECE

from .harness import PATIENT, deliver, mail, to

SEEDS = range(int(os.environ.get("POSTROOM_TEST_SEEDS", "16")))
EVENTS = (
    *(
        "250 2.0.0 ok",
        "250-fine\r\n250 ok",
        "354 go on",
        "421 4.3.2 closing",
        "450 4.2.1 later",
        "452 4.3.1 full",
        "500 what?",
    ),
    *(
        "502 5.5.1 no",
        "503 5.5.1 sequence",
        "550 5.1.1 unknown",
        "554 5.7.1 policy",
        "250 ok\r\n250 ok",
        "nonsense",
        "2",
        "",
    ),
)
OFFERS = ("PIPELINING", "CHUNKING", "SIZE", "8BITMIME", "LIMITS MAILMAX=7")


@pytest.mark.parametrize("seed", SEEDS)
async def test_outcomes_are_true(seed: int) -> None:
    dice = random.Random(seed)
    calm = dice.choice((0.5, 0.8, 0.95))
    extensions = tuple(offer for offer in OFFERS if dice.random() < 0.7)

    def step(_: Talk) -> Step | None:
        if dice.random() < calm:
            return None
        if dice.random() < 0.2:
            return Step(dice.choice(("", "25", "250 o")), cut=True, reset=dice.random() < 0.5)
        return Step(dice.choice(EVENTS))

    script = dict.fromkeys(("mail", "rcpt", "data", "bdat", "dot", "rset", "ehlo"), step)
    contents = {
        f"m{n}": f"Subject: {n}\r\n\r\n".encode() + b".\r\n" * (dice.randrange(3) if n % 10 else PIECE) + b"%d\r\n" % n
        for n in range(30)
    }
    timeouts = replace(PATIENT, mail=0.2, rcpt=0.2, data=0.2, dot=0.2, ehlo=0.2, block=0.2, patience=0.1, quit=0.1)
    async with SmtpServer(script, extensions=extensions) as mad, SmtpServer(extensions=extensions) as sane:
        run = await deliver(
            to(mad, sane), [mail(name, content) for name, content in contents.items()], timeouts=timeouts, connections=3
        )
        await asyncio.sleep(0)
        # who says that he knows no BDAT has kept nothing, by the protocol: the mail goes again
        kept = [
            (caught.rcpt_to[0], caught.content)
            for caught in (*mad.caught, *sane.caught)
            if caught.rcpt_to and not (caught.chunks and caught.answer.startswith("50"))
        ]
    for recipient, content in kept:
        name = recipient.partition("@")[0]
        assert content == contents[name], "whole, and nobody else's"
        outcome = run[name]
        assert outcome.result is Result.DELIVERED or outcome.dot_sent, f"{name} is there, and we say that it never left"
    names = [recipient.partition("@")[0] for recipient, _ in kept]
    assert len(names) == len(set(names)), "no mail is sent twice in one call"
    for name, outcome in run.outcomes.items():
        if outcome.result is Result.DELIVERED:
            assert name in names, f"{name} is nowhere, and we say that it was delivered"
