"""Fetching attachments by URL, through the guarded client: the caller decides where we connect (DESIGN §4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from api.emails.attachments import Remote, encoded_size
from api.emails.parse import MAX_MESSAGE, Parsed
from api.errors import ApiError, invalid
from mailcore.flow.submit import NewAttachment
from mailcore.kit.errors import Invalid, MailError
from mailcore.kit.guard import GuardedClient
from mailcore.mime.headers import check_content_type

DEADLINE_SECONDS = 15.0
TOTAL_SECONDS = 60.0
AT_ONCE = 4
REDIRECTS = 3


class Fetching:
    """Of one request: its URLs share the time and the octets that all of them together may take."""

    def __init__(self, client: GuardedClient) -> None:
        self._client = client
        self._ends = asyncio.get_running_loop().time() + TOTAL_SECONDS
        self._left = MAX_MESSAGE
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def complete(self, emails: Sequence[Parsed]) -> None:
        """Sets `attachments` of each email. Holds no transaction. Raises ApiError 422 where a URL gives no file."""
        for parsed in emails:
            if not parsed.parts:
                continue
            parsed.email.attachments = await asyncio.gather(*(self._whole(part) for part in parsed.parts))
            if sum([encoded_size(part) for part in parsed.email.attachments]) > MAX_MESSAGE:
                raise invalid(f"The email is larger than {MAX_MESSAGE // 1_000_000} MB, attachments counted as base64.")

    async def _whole(self, part: NewAttachment | Remote) -> NewAttachment:
        if not isinstance(part, Remote):
            return part
        async with self._turn:
            seconds = min(DEADLINE_SECONDS, self._ends - asyncio.get_running_loop().time())
            if seconds <= 0:
                raise _failed(part, f"the attachments of this request took longer than {TOTAL_SECONDS:g} s.")
            found = await _fetch(self._client, part, seconds)
        self._left -= len(found.content)
        if self._left < 0:
            raise _failed(
                part, f"together they are larger than {MAX_MESSAGE // 1_000_000} MB; send them in several requests."
            )
        return found


async def _fetch(client: GuardedClient, part: Remote, seconds: float) -> NewAttachment:
    try:
        answer = await client.request(
            "GET", part.url, deadline=seconds, max_body=MAX_MESSAGE * 3 // 4, redirects=REDIRECTS
        )
    except MailError as error:
        raise _failed(part, error.public) from None
    if answer.status != 200:
        raise _failed(part, f"the server answered {answer.status}.")
    if answer.truncated:
        raise _failed(part, f"it is larger than {MAX_MESSAGE * 3 // 4 // 1_000_000} MB.")
    content_type: str | None = answer.headers.get("content-type", "").partition(";")[0].strip()
    try:
        check_content_type(content_type or "")
    except Invalid:
        content_type = None
    return part.fetched(answer.body, content_type)


def _failed(part: Remote, why: str) -> ApiError:
    return ApiError(422, "invalid_attachment", f"The attachment at `{part.url[:200]}` could not be fetched: {why}")
