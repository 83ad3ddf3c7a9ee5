"""What /v1/messages and /v1/threads take and answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.body import Asked

MAX_FLAGGED = 1_000


class Flags(Asked):
    read: bool | None = None
    starred: bool | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.read is None and self.starred is None:
            raise ValueError("Give `read` or `starred`")
        return self


class FlagsOfMany(Flags):
    """Of `ids`, or of a whole thread."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MAX_FLAGGED)] | None = None
    thread_id: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.ids is None) == (self.thread_id is None):
            raise ValueError("Give either `ids` or `thread_id`")
        return self


class MessageSummary(BaseModel):
    id: str
    mailbox_id: str
    mailbox: str
    account_id: str | None
    """Of a mirrored IMAP account."""
    arrival_id: str | None
    thread_id: str | None
    message_id: str | None
    from_: str | None = Field(alias="from")
    to: list[str]
    cc: list[str]
    reply_to: list[str]
    subject: str | None
    snippet: str | None
    """The beginning of its text."""
    date: str | None
    """Of its Date header."""
    received_at: str
    size: int
    attachment_count: int
    """Without images that are shown within the text."""
    read: bool
    starred: bool
    junk: bool
    """A scanner, or somebody, called it spam."""
    flags: list[str]
    """IMAP's."""
    doubts: list[str]
    """What makes it look like another's: several_authors, name_has_address, another_checked, mixed_scripts,
    looks_alike, turned_around."""


class MessageAttachment(BaseModel):
    id: str
    filename: str | None
    content_type: str
    content_disposition: Literal["inline", "attachment"]
    content_id: str | None
    size: int
    scan: Literal["clean", "infected", "error"] | None
    """What is known of the mail that it is in. error: it could not be looked at; null: nobody looks for malware."""
    download_url: str | None
    """Null: infected, and not handed out."""
    expires_at: str


class Raw(BaseModel):
    download_url: str
    expires_at: str


class Message(MessageSummary):
    object: Literal["message"]
    thread_by: str | None
    """What led to its thread: new, in_reply_to, references, message_id, provider, subject."""
    text: str | None
    """What was written, or the text of its HTML."""
    html: str | None
    """Sanitised: no script, no form, no handler; shown in a frame without scripts all the same."""
    headers: dict[str, str] | None
    """Names in lower case. Null with text and html where the mail itself is not here."""
    authentication: dict[str, Any] | None
    """What SPF, DKIM, DMARC and ARC found when it arrived …"""
    findings: list[dict[str, Any]] | None
    """… and what scanners found."""
    remote_images: int
    """Images that it names elsewhere; they are in its HTML only with `images=proxy`."""
    images: Literal["block", "proxy"]
    attachments: list[MessageAttachment]
    raw: Raw | None


class MessageList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[MessageSummary]


class FoundMessages(MessageList):
    next: str | None
    """What the next page is to be `after`, where there is more. A page that took too long to fill has one, too; it may be empty."""


class MessageGone(BaseModel):
    object: Literal["message"]
    id: str
    deleted: Literal[True]


class Flagged(BaseModel):
    object: Literal["flags"]
    ids: list[str]
    """Those that there are."""


class ThreadSummary(BaseModel):
    id: str
    mailbox_id: str
    mailbox: str
    account_id: str | None
    subject: str | None
    """Of its first message, without `Re:` and the like."""
    participants: list[str]
    messages: int
    unread: int
    snippet: str | None
    """Of its newest message …"""
    from_: str | None = Field(alias="from")
    """… and who wrote that."""
    first_at: str
    last_at: str


class Thread(ThreadSummary):
    object: Literal["thread"]


class ThreadList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[ThreadSummary]
