"""What emails are composed of, as it was stored: read by outbound, in `store.worker(by_index=True)`, for many at a time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from mailcore.store.session import Connection


class Content(NamedTuple):
    """What an email is composed of, as submit stored it."""

    id: UUID
    org_id: UUID
    domain_id: UUID
    from_: str
    to: list[str]
    cc: list[str]
    reply_to: list[str]
    subject: str
    html: str | None
    text: str | None
    headers: dict[str, str]
    attachments: list[dict[str, Any]]
    body_blob: str | None
    message_id: str
    created_at: datetime
    scheduled_at: datetime | None
    raw: bytes | None = None
    """A whole message that was handed in; then html, text, headers and attachments are empty."""
    raw_blob: str | None = None
    """Where it is large."""
    track_opens: bool = False
    """As the email says; where it says nothing, as its domain does by now."""
    track_clicks: bool = False
    tracking_host: str | None = None
    """Of the domain's own, where opens and clicks come in; None until its record is verified."""
    alone: bool = False
    """It has one recipient, the one in `to`: what it says may be for this one only."""
    broadcast: bool = False
    """Of the class of broadcasts: it carries a link to unsubscribe."""
    dsn: dict[str, Any] | None = None
    """What its sender wants to be told (mailcore.dsn.wishes); None: nothing, it came by the API."""
    requiretls: bool = False
    """Its sender wants it to stay under TLS, or not to go (RFC 8689)."""
    tls_required: bool = False
    """Its domain wants TLS that is verified."""
    passed_on: dict[str, Any] | None = None
    """`raw` is somebody else's mail that goes on as it came (mailcore.flow.passed_on)."""

    @property
    def relayed(self) -> bool:
        """To another server of its own organization: its domain need not be able to send, nobody there is ever suppressed."""
        return self.passed_on is not None and self.passed_on["kind"] == "relay"


async def contents(db: Connection, ids: Iterable[UUID]) -> dict[UUID, Content]:
    return {row[0]: Content(*row) for row in await db.fetch(_CONTENTS, list(ids))}


async def light_contents(
    db: Connection, ids: Iterable[UUID], most: int
) -> tuple[list[tuple[Content, int]], dict[UUID, int]]:
    """`(light, heavy)`: emails without attachments and with at most so many bytes of content, and the sizes of the others.

    Sizes are bytes of html, text, raw and attachments, in the row or in blobs; html without a text counts twice: one is made.
    """
    light: list[tuple[Content, int]] = []
    heavy: dict[UUID, int] = {}
    for row in await db.fetch(_LIGHT_CONTENTS, list(ids), most):
        *content, is_light, size = row
        if is_light:
            light.append((Content(*content), size))
        else:
            heavy[row[0]] = size
    return light, heavy


def _columns(**special: str) -> str:
    """Of a Content, in its order."""
    return ", ".join((_SPECIAL | special).get(name, name) for name in Content._fields)


_SPECIAL = {
    "to": "to_",
    "cc": "coalesce(cc, '{}')",
    "reply_to": "coalesce(reply_to, '{}')",
    "text": "text_",
    "headers": "coalesce(headers, '{}')",
    "attachments": "coalesce(attachments, '[]')",
    "track_opens": "coalesce(opens, false)",
    "track_clicks": "coalesce(clicks, false)",
    "alone": "coalesce(alone, false)",
    "broadcast": "class = 1",
    "tls_required": "coalesce(tls_required, false)",
}
# asked with each content, and not kept: who switches it means the next mail
_OF_DOMAIN = """
LEFT JOIN LATERAL (
  SELECT coalesce(track_opens, d.open_tracking) AS opens, coalesce(track_clicks, d.click_tracking) AS clicks,
         CASE WHEN d.tracking_verified THEN d.tracking_subdomain || '.' || d.name END AS tracking_host,
         d.tls = 'enforced' AS tls_required,
         cardinality(to_) = 1 AND cardinality(coalesce(cc, '{}') || coalesce(bcc, '{}')) = 0 AS alone
  FROM domains d WHERE d.id = domain_id
) of_domain ON true
"""
# a join, not `= ANY`: of each id the month is known, and no other is looked into
_ASKED = "unnest($1::uuid[]) AS asked (asked_id) JOIN emails ON id = asked_id"
_CONTENTS = f"SELECT {_columns()} FROM {_ASKED} {_OF_DOMAIN}"
_IF_LIGHT = {
    "html": "CASE WHEN light THEN html END",
    "text": "CASE WHEN light THEN text_ END",
    "attachments": "'[]'::jsonb",
    "raw": "CASE WHEN light THEN raw END",
}
# octet_length knows the size of a stored text without reading it
_LIGHT_CONTENTS = f"""
SELECT {_columns(**_IF_LIGHT)}, light,
       CASE WHEN attachments IS NULL THEN size
            ELSE size + (SELECT coalesce(sum((part->>'size')::bigint), 0) FROM jsonb_array_elements(attachments) part) END::bigint
         AS size
FROM (
  SELECT *, attachments IS NULL AND body_blob IS NULL AND raw_blob IS NULL AND size <= $2 AS light
  FROM (
    SELECT *, coalesce(octet_length(html) * CASE WHEN text_ IS NULL THEN 2 ELSE 1 END, 0) + coalesce(octet_length(text_), 0)
              + coalesce(octet_length(raw), 0) + 2 * coalesce(body_bytes, 0) AS size
    FROM {_ASKED}
  ) sized
) told {_OF_DOMAIN}"""
