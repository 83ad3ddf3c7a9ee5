"""What /v1/quarantine answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class HeldMail(BaseModel):
    id: str
    """Of the arrival."""
    door: str
    source: str
    mail_from: str
    rcpt_to: list[str]
    size: int
    from_: str | None = Field(alias="from")
    subject: str | None
    attachments: int
    held_by: str | None
    """The step that holds it: routes, dmarc, a scanner; null: it could not be routed."""
    reason: str
    created_at: str
    expires_at: str | None
    """Then it is deleted; null: never by itself."""


class HeldMailRead(HeldMail):
    object: Literal["quarantined"]
    decisions: list[dict[str, Any]]


class HeldMails(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[HeldMail]


class HeldMailReleased(BaseModel):
    object: Literal["quarantined"]
    id: str
    released: Literal[True]


class HeldMailGone(BaseModel):
    object: Literal["quarantined"]
    id: str
    deleted: Literal[True]
