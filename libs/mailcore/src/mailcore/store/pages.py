"""A page of a list: newest first, by id (UUIDv7 sorts by time), or by a time of its own and then by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from mailcore.kit.ids import uuid7_time
from mailcore.store.session import Connection

LAST_ID = UUID(int=0xE000_0000_0000 << 80)
"""Beyond this an id names a year that there is not."""


@dataclass(frozen=True, slots=True)
class Page:
    limit: int | None
    """None: everything."""
    after: UUID | None = None
    """Older than this one."""
    before: UUID | None = None
    """Newer than this one: those next to it."""


@dataclass(frozen=True, slots=True)
class Slice:
    rows: list[Any]
    has_more: bool
    """In the direction that was asked for."""


async def fetch(db: Connection, select: str, args: list[Any], page: Page, *, column: str = "id") -> Slice:
    """`select` ends inside its WHERE clause (`… WHERE org_id = $1`); cursor, order and limit are added here."""
    args = list(args)
    cursor = page.after or page.before
    if cursor is not None:
        args.append(cursor)
        select += f" AND {column} {'<' if page.after else '>'} ${len(args)}"
    backwards = page.before is not None and page.after is None
    select += f" ORDER BY {column} {'ASC' if backwards else 'DESC'}"
    if page.limit is not None:
        args.append(page.limit + 1)  # one more tells whether there is more
        select += f" LIMIT ${len(args)}"
    rows = await db.fetch(select, *args)
    more = page.limit is not None and len(rows) > page.limit
    rows = rows[: page.limit]
    if backwards:
        rows.reverse()
    return Slice(rows, more)


async def fetch_by_time(
    db: Connection, select: str, args: list[Any], page: Page, *, table: str, time: str, alias: str
) -> Slice:
    """As `fetch`, by the column `time` of `table`, which `select` calls `alias`. A cursor whose row is gone is read by its id's
    own time."""
    args = list(args)
    cursor = page.after or page.before
    backwards = page.before is not None and page.after is None
    if cursor is not None:
        args += [cursor, uuid7_time(UUID(int=min(cursor.int, LAST_ID.int)))]
        at = f"coalesce((SELECT {time} FROM {table} WHERE id = ${len(args) - 1}), ${len(args)}::timestamptz)"
        select += f" AND ({alias}.{time}, {alias}.id) {'>' if backwards else '<'} ({at}, ${len(args) - 1})"
    direction = "ASC" if backwards else "DESC"
    select += f" ORDER BY {alias}.{time} {direction}, {alias}.id {direction}"
    if page.limit is not None:
        args.append(page.limit + 1)
        select += f" LIMIT ${len(args)}"
    rows = await db.fetch(select, *args)
    more = page.limit is not None and len(rows) > page.limit
    rows = rows[: page.limit]
    if backwards:
        rows.reverse()
    return Slice(rows, more)
