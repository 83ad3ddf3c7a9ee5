"""What /v1/mailboxes takes and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.body import Asked


class NewMailbox(Asked):
    address: Annotated[str, Field(max_length=1000)]
    """Of a domain of the organization; without a +tag."""
    display_name: Annotated[str, Field(max_length=200)] | None = None


class ChangedMailbox(Asked):
    display_name: Annotated[str, Field(max_length=200)] | None
    """Null takes it away."""


class MailboxSummary(BaseModel):
    id: str
    address: str
    """As it is compared: in lower case, the domain in A-labels. Of an account: its login."""
    display_name: str | None
    domain_id: str | None
    account_id: str | None
    """Of a mirrored IMAP account."""
    unread: int
    """Counted up to 10,000."""
    last_received_at: str | None
    created_at: str


class Mailbox(MailboxSummary):
    object: Literal["mailbox"]


class MailboxList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[MailboxSummary]


class MailboxGone(BaseModel):
    object: Literal["mailbox"]
    id: str
    deleted: Literal[True]
