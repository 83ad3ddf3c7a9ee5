"""What people type to find mail, as a tsquery and a filter.

    from:ann@example.com  from:example.com  to:…  subject:"annual report"  filename:pdf  has:attachment
    in:support@example.com  before:2026-03-01  after:2026-02-01  is:unread|read|starred
    word  wor*  "words in a row"  -word  this OR that

Terms hold together unless OR stands between two. Letters are compared without case and accents. Days are UTC's; `after` begins
with the day it names, `before` ends before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from api.errors import invalid
from mailcore.flow.words import HAS_FILES
from mailcore.mime.words import folded_address, is_unspaced, words

MAX_QUERY = 500
MAX_TERMS = 30

_TERM = re.compile(r'(?P<no>-)?(?:(?P<field>[A-Za-z]{1,10}):)?(?:"(?P<quoted>[^"]*)"?|(?P<bare>[^\s"]+))')
_FIELDS = {"from": "f", "to": "t", "cc": "t", "bcc": "t", "subject": "s", "filename": "n"}
_DAY = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})\Z")


@dataclass(slots=True)
class Query:
    tsquery: str = ""
    """With `~` for the mark; empty: no word is asked for, only what the filter says."""
    in_: list[str] = field(default_factory=list)
    """Addresses or ids of mailboxes."""
    since: datetime | None = None
    before: datetime | None = None
    seen: bool | None = None
    flagged: bool | None = None
    attachments: bool | None = None


def parse(text: str) -> Query:
    """Raises ApiError 422 with what to change."""
    if len(text) > MAX_QUERY:
        raise invalid(f"A search has at most {MAX_QUERY} characters.", "invalid_parameter")
    found = Query()
    wanted: list[list[str]] = []  # all of them; of each one alternative
    unwanted: list[str] = []
    either = False
    for n, match in enumerate(_TERM.finditer(text)):
        if n >= MAX_TERMS:
            raise invalid(f"A search has at most {MAX_TERMS} terms.", "invalid_parameter")
        if match[0] == "OR":
            either = bool(wanted)
            continue
        if _filters(found, match):
            continue
        term = _term(match)
        if term is None:
            continue
        if match["no"]:
            unwanted.append(f"!({term})")
        elif either:
            wanted[-1].append(term)
        else:
            wanted.append([term])
        either = False
    if unwanted and not wanted:
        raise invalid(
            "Add a word to find: a search for what is missing alone would find nearly everything.", "invalid_parameter"
        )
    if wanted and found.attachments is not None:
        wanted.append([f"{'' if found.attachments else '!'}'~{HAS_FILES}'"])
    found.tsquery = " & ".join([*(f"({' | '.join(some)})" for some in wanted), *unwanted])
    return found


def _filters(found: Query, match: re.Match[str]) -> bool:
    """Takes a term that is no word. Raises ApiError."""
    name, value = (match["field"] or "").lower(), (match["quoted"] or match["bare"] or "").lower()
    negative = bool(match["no"])
    if name == "in" and not negative:
        found.in_.append(value)
    elif name in ("before", "after"):
        day = _day(value, name)
        if name == "before":
            found.before = min(day, found.before or day)
        else:
            found.since = max(day, found.since or day)
    elif name == "is" and value in ("unread", "read"):
        found.seen = (value == "read") != negative
    elif name == "is" and value in ("starred", "flagged"):
        found.flagged = not negative
    elif name == "has" and value in ("attachment", "attachments"):
        found.attachments = not negative
    elif name in ("is", "has", "in"):
        raise invalid(
            f"`{match[0][:60]}` is not understood. There are is:unread, is:read, is:starred, has:attachment and in:<mailbox>.",
            "invalid_parameter",
        )
    else:
        return False
    return True


def _day(value: str, name: str) -> datetime:
    match = _DAY.match(value)
    try:
        if match is not None:
            return datetime(int(match[1]), int(match[2]), int(match[3]), tzinfo=UTC)
    except ValueError:
        pass
    raise invalid(f"Give `{name}:` a day, such as {name}:2026-03-01.", "invalid_parameter")


def _term(match: re.Match[str]) -> str | None:
    """Of words; None where there are none in it."""
    name, value = (match["field"] or "").lower(), match["quoted"] if match["bare"] is None else match["bare"]
    mark = _FIELDS.get(name)
    if mark is None and name:
        value = f"{name} {value}"  # `https:…`: no field of ours
    if mark in ("f", "t") and match["bare"] is not None:
        address = folded_address(value.lstrip("@").removesuffix("*"))
        if address is not None and not address.isalnum() and not value.endswith("*"):
            return f"'~{mark}:{address}'"
    lead = f"~{mark}:" if mark else "~"
    some = words(value)
    if not some:
        return None
    lexemes = [f"'{lead}{word}'" for word in some]
    last = some[-1]
    if (match["bare"] is not None and value.endswith("*") and len(last) > 1) or (
        len(some) == 1 == len(last) and is_unspaced(last)
    ):
        lexemes[-1] += ":*"
    return "(" + " <-> ".join(lexemes) + ")" if len(lexemes) > 1 else lexemes[0]
