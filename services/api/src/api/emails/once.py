"""`Idempotency-Key` (resend.md §2): the request's meaning as a fingerprint; key order, or `"a"` for `["a"]`, is no difference."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from starlette.requests import Request

from api.emails.attachments import Remote
from api.emails.parse import Parsed
from api.errors import ApiError
from mailcore.flow.submit import NewAttachment, Once

MAX_KEY = 256


def once(
    request: Request, endpoint: str, parsed: Sequence[Parsed], response: Callable[[list[str]], bytes], mode: Any = None
) -> Once | None:
    """None without the header. Raises ApiError 400 `invalid_idempotency_key`."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise ApiError(
            400, "invalid_idempotency_key", "Idempotency keys, if present, must have between 1 and 256 characters."
        )
    meaning = orjson.dumps([mode, [_meaning(each) for each in parsed]], option=orjson.OPT_SORT_KEYS)
    return Once(endpoint, key, hashlib.sha256(meaning).digest(), response)


def _meaning(parsed: Parsed) -> list[Any]:
    email = parsed.email
    return [
        *(email.from_, email.to, email.cc, email.bcc, email.reply_to, email.subject, email.html, email.text),
        *(email.headers, email.tags, parsed.scheduled_text),
        [_part(part) for part in parsed.parts],
        *([] if email.track_opens is None is email.track_clicks else [email.track_opens, email.track_clicks]),
    ]


def _part(part: NewAttachment | Remote) -> list[str | None]:
    content = part.url if isinstance(part, Remote) else hashlib.sha256(part.content).hexdigest()
    return [content, part.content_type, part.filename, part.content_id]
