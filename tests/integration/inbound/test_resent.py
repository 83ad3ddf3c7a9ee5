"""Who resends a mail speaks in a name, too: Resent-From and Resent-Sender (RFC 5322 §3.6.6) are of its organization's domains."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from .submitting import Submitting

MAIL = b"From: us@postroom.test\r\nTo: you@example.com\r\nSubject: s\r\n\r\nhello\r\n"


@pytest.mark.parametrize(
    "field",
    [
        b"Resent-From: ceo@bank.test\r\n",
        b"Resent-From: Us <us@postroom.test>, The Bank <ceo@bank.test>\r\n",
        b"Resent-From: us@postroom.test\r\nResent-Sender: ceo@bank.test\r\n",
        b"Resent-From: us@postroom.test\r\nResent-From: ceo@bank.test\r\n",
        b"resent-from: <ceo@sub.postroom.test>\r\n",
    ],
)
async def test_a_foreign_name_is_refused(
    submission: Submitting,
    token: str,
    admin: asyncpg.Connection,
    make_org: Callable[[], Awaitable[UUID]],
    make_domain: Callable[[UUID, str], Awaitable[UUID]],
    field: bytes,
) -> None:
    await make_domain(await make_org(), "bank.test")
    code, text = await submission.submit(token, field + MAIL, "you@example.com")
    assert (code, text[:5]) == (550, "5.7.1"), text
    assert await admin.fetchval("SELECT count(*) FROM emails") == 0


async def test_ones_own_name_passes_and_nobodys_does_not(submission: Submitting, token: str) -> None:
    own = b"Resent-From: Us <us@postroom.test>\r\nResent-To: you@example.com\r\n"
    assert (await submission.submit(token, own + MAIL, "you@example.com"))[0] == 250
    code, text = await submission.submit(token, b"Resent-From: undisclosed:;\r\n" + MAIL, "you@example.com")
    assert (code, text[:5]) == (550, "5.6.0"), text
