"""A routed mail as JSON, for the endpoint that a route names: Postmark's inbound JSON and more, so that what reads that reads this.

    From, FromName, FromFull, To, ToFull, Cc, CcFull, Bcc, BccFull, OriginalRecipient, Subject, MessageID, ReplyTo, MailboxHash,
    Date, TextBody, HtmlBody, StrippedTextReply, Tag, MessageStream, Headers, Attachments      Postmark's, with its meaning
    Envelope, Auth, Findings, Route, Recipients, RawDownloadUrl, RawExpiresAt, Omitted         ours
    type, created_at, data                                           as of every event; data as of email.received, and its route

MessageID is the arrival's id; the mail's own stands among the Headers. Attachments are fetched by signed URL, and have `Content`
where the route asks for it, they are small and nobody found malware in the mail (`Scan`). Made anew at each attempt, so that URLs
are good for LINK_SECONDS after each.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from mailcore import events
from mailcore.blob.base import BlobStore
from mailcore.events import Event
from mailcore.flow.bodies import MAX_CHARACTERS
from mailcore.flow.links import MARKED, RECEIVED, Links
from mailcore.flow.marking import marks_from, unmarked
from mailcore.flow.parse import Reader, raw_of
from mailcore.kit.errors import NotFound, Refused
from mailcore.mime import fields as header
from mailcore.mime.fields import Field, MailAddress, read_fields
from mailcore.mime.parse import Limits
from mailcore.mime.plaintext import html_to_text
from mailcore.mime.replies import stripped
from mailcore.mime.text import decode_header
from mailcore.scanners.base import malware

LINK_SECONDS = 7 * 86_400
INLINE_BYTES = 10 * 1024 * 1024
"""Of all attachments of a mail that are posted with it."""
MAX_HEADERS = 500
_SHORT = {"id": "ID", "mime": "MIME", "dkim": "DKIM", "spf": "SPF", "arc": "ARC"}


class Parsed:
    """One a process."""

    def __init__(self, blobs: BlobStore, links: Links, reader: Reader | None = None) -> None:
        self._blobs = blobs
        self._links = links
        self._reader = reader or Reader()

    async def payload(
        self, event: Event, subject: Mapping[str, Any] | None, raw: tuple[bytes | None, str | None] | None
    ) -> dict[str, Any]:
        """`subject`: the arrival's columns as store.webhooks.SUBJECT has them. What is no longer kept is left out. Raises
        Unavailable."""
        base = events.payload(event, subject)
        if subject is None:
            return base
        octets, omitted = b"", []
        content: dict[str, Any] = {"html": None, "text": None}
        try:
            octets = b"" if raw is None or raw == (None, None) else await raw_of(self._blobs, *raw)
            content = await self._reader.content(octets, "cid")
        except (NotFound, Refused):
            omitted = ["TextBody", "HtmlBody"]
        marks = marks_from((event.detail or {}).get("marks"))
        shown = marks.head.encode() + await asyncio.to_thread(unmarked, octets, marks)
        fields, _ = read_fields(shown, 0, Limits().header_bytes + len(marks.head), [])
        told = base | _addressed(event, subject, fields) | _bodies(content, omitted)
        told["Headers"] = [
            {"Name": _cased(each.name), "Value": decode_header(each.value)} for each in fields[:MAX_HEADERS]
        ]
        inline = bool((event.detail or {}).get("inline_attachments"))
        told["Attachments"] = await self._attachments(subject, octets if inline else b"")
        whole = MARKED + str(event.id) if marks.head else "raw"
        link = self._links.file(RECEIVED, UUID(subject["org_id"]), UUID(subject["id"]), whole, seconds=LINK_SECONDS)
        told["RawDownloadUrl"], told["RawExpiresAt"] = link.url, link.expires_at
        return told | {"Auth": subject.get("auth"), "Findings": subject.get("findings") or [], "Omitted": omitted}

    async def _attachments(self, subject: Mapping[str, Any], octets: bytes) -> list[dict[str, Any]]:
        """`octets`: of the mail, where small attachments go along."""
        scan = malware(subject.get("findings"))
        found, room = [], INLINE_BYTES if octets and scan != "infected" else 0
        for n, one in enumerate((subject["summary"] or {}).get("attachments") or ()):
            link = self._links.file(
                RECEIVED, UUID(subject["org_id"]), UUID(subject["id"]), one["id"], seconds=LINK_SECONDS
            )
            told = {
                "Name": one["filename"] or "",
                "ContentType": one["content_type"],
                "ContentLength": one["size"],
                "ContentID": one["content_id"] or "",
                "Id": one["id"],
                "DownloadUrl": link.url,
                "ExpiresAt": link.expires_at,
                "Scan": scan,
            }
            if one["size"] <= room:
                file = await self._reader.attachment(octets, n)
                if file is not None:
                    room -= len(file.content)
                    told["Content"] = base64.b64encode(file.content).decode()
            found.append(told)
        return found


def mailbox_hash(address: str) -> str:
    """What stands between `+` and `@`."""
    local = address.rpartition("@")[0]
    return "" if local.startswith('"') else local.partition("+")[2]


def _addressed(event: Event, subject: Mapping[str, Any], fields: list[Field]) -> dict[str, Any]:
    recipient = (event.recipients or subject["rcpt_to"] or [""])[0]
    summary = subject["summary"] or {}
    people = {name: header.addresses(fields, name.lower(), []) for name in ("From", "To", "Cc", "Bcc", "Reply-To")}
    sender = next(iter(people["From"]), MailAddress("", summary.get("from") or subject["mail_from"]))
    told: dict[str, Any] = {
        "FromName": sender.name,
        "From": sender.address,
        "FromFull": _full(sender),
        "OriginalRecipient": recipient,
        "MailboxHash": mailbox_hash(recipient),
        "MessageID": subject["id"],
        "MessageStream": "inbound",
        "Subject": summary.get("subject") or "",
        "ReplyTo": ", ".join(_shown(one) for one in people["Reply-To"]),
        "Date": header.field(fields, "date") or "",
        "Tag": "",
        "Envelope": {"From": subject["mail_from"], "To": subject["rcpt_to"]},
        "Recipients": [{"Email": one, "MailboxHash": mailbox_hash(one)} for one in event.recipients or ()],
        "Route": (event.detail or {}).get("route"),
    }
    for name in ("To", "Cc", "Bcc"):
        told[name] = ", ".join(_shown(one) for one in people[name])
        told[f"{name}Full"] = [_full(one) for one in people[name]]
    return told


def _bodies(content: Mapping[str, Any], omitted: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key in (("TextBody", "text"), ("HtmlBody", "html")):
        text = content[key] or ""
        if len(text) > MAX_CHARACTERS:
            omitted.append(name)
            text = ""
        found[name] = text
    text = found["TextBody"] or (html_to_text(found["HtmlBody"]) if found["HtmlBody"] else "")
    return found | {"StrippedTextReply": stripped(text)}


def _full(one: MailAddress) -> dict[str, str]:
    return {"Email": one.address, "Name": one.name, "MailboxHash": mailbox_hash(one.address)}


def _shown(one: MailAddress) -> str:
    return f'"{one.name}" <{one.address}>' if one.name else one.address


def _cased(name: str) -> str:
    """Names come in lower case; this is how they are mostly written."""
    return "-".join(_SHORT.get(part, part.capitalize()) for part in name.split("-"))
