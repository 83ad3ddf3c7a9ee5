"""What an accepted send asked for, out of the emails it made: the log does not store them a second time."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from api.context import Context
from api.logs.masking import shorten
from mailcore.store import logs

INLINE_BYTES = 65_536
"""A larger text is named by its size; GET /emails/:id shows it."""


async def request_body(ctx: Context, org_id: UUID, response: Any, limit: int) -> Any:
    """`response`: of the send, `{"id"}` or `{"data": [{"id"}]}`. Lists stand where one text may have stood. `limit`: of a text."""
    batch = isinstance(response, dict) and "data" in response
    ids = [UUID(each["id"]) for each in (response["data"] if batch else [response])]
    async with ctx.store.tenant(org_id) as db:
        rows = await logs.sent(db, ids)
    items = [await _item(ctx, row, limit) for row in rows]
    return items if batch else (items[0] if items else None)


async def _item(ctx: Context, row: Any, limit: int) -> dict[str, Any]:
    html, text = row["html"], row["text_"]
    if row["body_blob"] is not None and (row["body_bytes"] or 0) <= INLINE_BYTES:
        body = orjson.loads(await ctx.blobs.get(row["body_blob"]))
        html, text = body["html"], body["text"]
    elif row["body_blob"] is not None:
        html = f"({row['body_bytes']} bytes, see GET /emails/{row['id']})"
    item = {
        "from": row["from_"],
        "to": row["to_"],
        "cc": row["cc"],
        "bcc": row["bcc"],
        "reply_to": row["reply_to"],
        "subject": row["subject"],
        "html": None if html is None else shorten(html, limit),
        "text": None if text is None else shorten(text, limit),
        "headers": row["headers"],
        "tags": row["tags"],
        "scheduled_at": None if row["scheduled_at"] is None else row["scheduled_at"].isoformat(),
        "attachments": None if not row["attachments"] else [_attachment(each) for each in row["attachments"]],
    }
    return {name: value for name, value in item.items() if value is not None}


def _attachment(part: dict[str, Any]) -> dict[str, Any]:
    shown = {name: part.get(name) for name in ("filename", "content_type", "content_id")}
    return {name: value for name, value in shown.items() if value} | {"content": f"({part.get('size', 0)} bytes)"}
