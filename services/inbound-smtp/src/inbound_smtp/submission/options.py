"""Resend-* fields: what the API takes as fields of its JSON (docs/submission.md).

    Resend-Idempotency-Key: order-4711
    Resend-Tags: campaign=spring, tier=gold
    Resend-Scheduled-At: 2026-08-05T11:52:01Z       or in English, as the API takes it
    Resend-Track-Opens: yes | no
    Resend-Track-Clicks: yes | no

Others are removed and mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mailcore.kit.errors import Invalid
from mailcore.kit.moment import moment

MAX_KEY = 256
MAX_TAGS = 75
MAX_DAYS_AHEAD = 30

_TAG = re.compile(r"([A-Za-z0-9_-]{1,256})=([A-Za-z0-9_-]{0,256})\Z")
_SWITCH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True)
class Options:
    tags: list[dict[str, str]] | None
    scheduled_at: datetime | None
    track_opens: bool | None
    track_clicks: bool | None


def read(given: Mapping[str, str]) -> Options:
    """Raises Invalid."""
    return Options(
        _tags(given.get("tags")),
        _scheduled(given.get("scheduled-at")),
        _switch("Track-Opens", given.get("track-opens")),
        _switch("Track-Clicks", given.get("track-clicks")),
    )


def idempotency_key(given: Mapping[str, str]) -> str | None:
    """Raises Invalid."""
    key = given.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_KEY:
        raise Invalid(
            "Idempotency keys, if present, must have between 1 and 256 characters.", name="invalid_idempotency_key"
        )
    return key


def _tags(text: str | None) -> list[dict[str, str]] | None:
    if text is None:
        return None
    tags = []
    for pair in filter(None, map(str.strip, text.split(","))):
        match = _TAG.match(pair)
        if match is None:
            raise Invalid(
                "Resend-Tags must be of the form `name=value, name=value`, of ASCII letters, numbers, underscores and dashes."
            )
        tags.append({"name": match[1], "value": match[2]})
    if len(tags) > MAX_TAGS:
        raise Invalid(f"Resend-Tags may hold at most {MAX_TAGS} tags.")
    return tags or None


def _scheduled(text: str | None) -> datetime | None:
    """None for a moment that has passed: such a mail is sent now."""
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        at = moment(text, now)
    except Invalid as error:
        raise Invalid(f"Resend-Scheduled-At: {error.public}") from error
    if at > now + timedelta(days=MAX_DAYS_AHEAD):
        raise Invalid(f"Resend-Scheduled-At may be at most {MAX_DAYS_AHEAD} days ahead.")
    return at if at > now else None


def _switch(name: str, text: str | None) -> bool | None:
    if text is None:
        return None
    if (on := _SWITCH.get(text.strip().lower())) is None:
        raise Invalid(f"Resend-{name} must be `yes` or `no`.")
    return on
