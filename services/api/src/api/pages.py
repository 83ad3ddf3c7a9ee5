"""Lists: `limit`, `after`, `before` in; `{"object": "list", "has_more", "data"}` out (resend.md §1.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from starlette.requests import Request

from api.errors import ApiError, invalid
from mailcore.store.pages import Page, Slice

MAX_LIMIT = 100

PARAMETERS: dict[str, Any] = {
    "parameters": [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
        },
        *(
            {"name": name, "in": "query", "required": False, "schema": {"type": "string", "format": "uuid"}}
            for name in ("after", "before")
        ),
    ]
}
"""For `openapi_extra` of a list."""


def page(request: Request, *, default: int | None = 20) -> Page:
    """What the query asks for. `default` None: everything, as the older lists do. Raises ApiError 422."""
    query = request.query_params
    limit = plain_limit(request) if "limit" in query else default
    after, before = _cursor(query.get("after"), "after"), _cursor(query.get("before"), "before")
    if after is not None and before is not None:
        raise invalid("Use either `after` or `before`, not both.")
    return Page(limit, after, before)


def plain_limit(request: Request, *, default: int = 20) -> int:
    """`limit` alone, for lists whose cursors are no UUIDs. Raises ApiError 422."""
    text = request.query_params.get("limit", str(default))
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(
            "The pagination limit must be a number between 1 and 100. See https://resend.com/docs/pagination for more information."
        )
    return limit


def listed(slice_: Slice, shape: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "has_more": slice_.has_more, "data": [shape(row) for row in slice_.rows]}


NUMBERED: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "integer", "minimum": 1, "default": default} | most,
        }
        for name, default, most in (("page", 1, {}), ("per_page", 20, {"maximum": MAX_LIMIT}))
    ]
}
"""For `openapi_extra` of a list in MailIt's form."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """MailIt's `page` and `per_page` (features.md §2.4)."""

    number: int
    size: int

    @property
    def offset(self) -> int:
        return (self.number - 1) * self.size

    def answer(self, data: list[dict[str, Any]], total: int) -> dict[str, Any]:
        return {
            "data": data,
            "total": total,
            "page": self.number,
            "per_page": self.size,
            "total_pages": -(-total // self.size),
            "has_more": self.number * self.size < total,
        }


def numbered(request: Request, *, reach: int) -> Numbered:
    """`reach`: how many rows can be paged through. Raises ApiError 422."""
    asked = {}
    for name, default, most in (("page", 1, reach), ("per_page", 20, MAX_LIMIT)):
        text = request.query_params.get(name, str(default))
        asked[name] = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0
        if not 1 <= asked[name] <= most:
            raise invalid(f"The `{name}` parameter must be a number between 1 and {most}.")
    if asked["page"] * asked["per_page"] > reach:
        raise invalid(f"Pages reach {reach} rows far.")
    return Numbered(asked["page"], asked["per_page"])


def path_id(text: str, name: str = "id") -> UUID:
    """An id out of a path. Raises ApiError 422 `invalid_parameter`."""
    try:
        return UUID(text) if len(text) == 36 else _no_uuid(name)
    except ValueError:
        return _no_uuid(name)


def _no_uuid(name: str) -> UUID:
    raise ApiError(422, "invalid_parameter", f"The `{name}` must be a valid UUID.")


def _cursor(text: str | None, name: str) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        raise invalid(f"The `{name}` cursor must be a valid UUID.") from None
