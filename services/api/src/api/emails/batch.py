"""POST /emails/batch: all or nothing (strict), or what is good (permissive) (resend.md §4.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from api.emails.parse import Parsed, parse
from api.errors import ApiError, from_mail_error, invalid
from mailcore.kit.errors import MailError

MAX_EMAILS = 100


@dataclass(slots=True)
class Batch:
    permissive: bool
    emails: list[Parsed] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Of `emails` in the request."""
    errors: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, index: int, error: ApiError | MailError) -> None:
        """Strict: raises it. Permissive: notes it."""
        if not self.permissive or (isinstance(error, MailError) and error.temporary):
            raise error
        message = error.message if isinstance(error, ApiError) else from_mail_error(error).message
        self.errors.append({"index": index, "message": message})

    def drop(self, which: int, error: ApiError | MailError) -> None:
        """An email that turned out not to be sendable after parsing."""
        self.refuse(self.positions[which], error)
        del self.emails[which], self.positions[which]

    def answer(self, ids: list[str]) -> bytes:
        body: dict[str, Any] = {"data": [{"id": id_} for id_ in ids]}
        if self.permissive:
            body["errors"] = sorted(self.errors, key=lambda error: int(error["index"]))
        return orjson.dumps(body)


def parse_batch(items: Any, *, permissive: bool) -> Batch:
    """An array, or MailIt's `{"emails": […]}`. Raises ApiError: neither, too many; strict: the first email's that is wrong."""
    if type(items) is dict and "emails" in items:
        items = items["emails"]
    if type(items) is not list:
        raise invalid("The request body must be a JSON array of emails.")
    if not 1 <= len(items) <= MAX_EMAILS:
        raise invalid(f"A batch must hold between 1 and {MAX_EMAILS} emails.")
    batch = Batch(permissive)
    for index, item in enumerate(items):
        try:
            parsed = parse(item)
        except (ApiError, MailError) as error:
            batch.refuse(index, error)
        else:
            batch.emails.append(parsed)
            batch.positions.append(index)
    return batch
