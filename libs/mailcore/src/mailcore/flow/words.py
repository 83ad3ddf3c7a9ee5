"""The words that a message is found by: made once, when it is stored, out of its subject, addresses, file names and text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from mailcore.mime.parse import Summary
from mailcore.mime.words import Lexemes

SNIPPET = 200
"""Characters of a text that a list shows."""
HAS_FILES = "h:attachment"
_PERIOD = 28 * 86_400
_UNSEEN = re.compile("[\u200b-\u200d\u2060\ufeff\u034f\u00ad]+")


def mark(org_id: UUID, at: datetime) -> str:
    """What each word of an organization's mail of 28 days begins with: `search_mark` of the database."""
    period = int(at.astimezone(UTC).timestamp() // _PERIOD)
    return hashlib.sha256(f"{org_id}:{period}".encode()).hexdigest()[:6]


def tsvector(found: Summary, *, org_id: UUID, received_at: datetime, rcpt_to: Sequence[str] = ()) -> str:
    """As Postgres reads it; the mailbox is not yet among them. `rcpt_to`: whom it came to, whatever its header says."""
    made = Lexemes(mark(org_id, received_at))
    if files(found):
        made.add_one(HAS_FILES)
    made.add(found.subject or "", "s")
    made.add_addresses([(one.name, one.address) for one in found.from_[:20]], "f")
    people = [(one.name, one.address) for one in (*found.to, *found.cc, *found.bcc)][:200]
    made.add_addresses([*people, *(("", address) for address in rcpt_to[:20])], "t")
    for one in found.attachments[:100]:
        made.add(one.filename or "", "n")
    made.add(found.text)
    return made.tsvector()


def of_mailbox(tsvector_: str, mark_: str, mailbox_id: UUID) -> str:
    return f"{tsvector_} '{mark_}{in_mailbox(mailbox_id)}'"


def in_mailbox(mailbox_id: UUID) -> str:
    """The word that all mail in a mailbox has."""
    return f"m:{mailbox_id.hex[-12:]}"


def files(found: Summary) -> int:
    """Attachments that somebody would look for: images that the text shows are none."""
    return sum(not (one.content_disposition == "inline" and one.content_id) for one in found.attachments)


def snippet(text: str) -> str | None:
    return " ".join(_UNSEEN.sub(" ", text[: 10 * SNIPPET]).split())[:SNIPPET] or None
