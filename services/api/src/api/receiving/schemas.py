"""What /emails/receiving and /inbound/emails answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class AttachmentSummary(BaseModel):
    id: str
    filename: str | None
    content_type: str
    content_disposition: Literal["inline", "attachment"]
    content_id: str | None
    size: int


class FoundAttachment(AttachmentSummary):
    download_url: str
    """For an hour; no key is needed."""
    expires_at: str


class Attachment(FoundAttachment):
    object: Literal["attachment"]


class AttachmentList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[FoundAttachment]


class ReceivedSummary(BaseModel):
    id: str
    from_: str = Field(alias="from")
    """The bare address; the display form is in `headers.from` of the email."""
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: list[str]
    received_for: list[str]
    """Whom it was delivered to, then whom it had been meant for before it was forwarded."""
    subject: str | None
    message_id: str
    created_at: str
    attachments: list[AttachmentSummary]


class ReceivedList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[ReceivedSummary]


class Raw(BaseModel):
    download_url: str
    expires_at: str


class Received(ReceivedSummary):
    object: Literal["email"]
    html: str | None
    text: str | None
    html_format: Literal["data_uri", "cid"]
    headers: dict[str, str] | None
    raw: Raw | None


class Inbound(BaseModel):
    """MailIt's form (features.md §2.4)."""

    id: str
    from_: str = Field(alias="from")
    to: list[str]
    subject: str | None
    html: str | None
    """Null in lists."""
    text: str | None
    """Null in lists."""
    created_at: str


class InboundList(BaseModel):
    data: list[Inbound]
    total: int
    page: int
    per_page: int
    total_pages: int
    has_more: bool
