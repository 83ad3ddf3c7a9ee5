"""What /webhooks takes and answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, model_validator

from api.body import Asked

Status = Literal["enabled", "disabled"]


class _Named(Asked):
    url: str | None = None
    """MailIt's name for `endpoint`; the answer is then in its form too."""

    @model_validator(mode="before")
    @classmethod
    def _endpoint_by_url(cls, asked: Any) -> Any:
        if isinstance(asked, dict) and "url" in asked and "endpoint" not in asked:
            return asked | {"endpoint": asked["url"]}
        return asked


class NewWebhook(_Named):
    endpoint: str
    """Where events are posted: http or https."""
    events: list[str]
    """Types of events, or `*` for all."""
    ordered: bool = False
    """Events of one email are posted one after another."""
    include_body: bool = False
    """email.received carries `html`, `text` and `headers`."""


class ChangedWebhook(_Named):
    endpoint: str | None = None
    events: list[str] | None = None
    status: Status | None = None
    active: bool | None = None
    """MailIt's form of `status`."""
    ordered: bool | None = None
    include_body: bool | None = None


class WebhookChanged(BaseModel):
    object: Literal["webhook"]
    id: str


class WebhookCreated(WebhookChanged):
    signing_secret: str
    """`whsec_` and base64: what posts are signed with."""


class WebhookDeleted(WebhookChanged):
    deleted: Literal[True]


class WebhookSummary(BaseModel):
    id: str
    created_at: str
    status: Status
    endpoint: str
    events: list[str]


class Webhook(WebhookSummary):
    object: Literal["webhook"]
    signing_secret: str
    ordered: bool
    include_body: bool
    failing_since: str | None
    """The first failed post since the last success."""
    disabled_at: str | None
    disabled_reason: str | None
    """Null when it is enabled, or was disabled by hand."""


class WebhookList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[WebhookSummary]


class EventSummary(BaseModel):
    id: str
    """`msg_…`: the header svix-id of its posts."""
    type: str
    created_at: str
    status: Literal["success", "failed", "attempting", "pending"]


class EventList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[EventSummary]


class WebhookEvent(EventSummary):
    object: Literal["webhook_event"]
    next_attempt_at: str | None
    """Null when there will be none, and while one is being made."""
    payload: dict[str, Any]
    """As it is posted."""


class EventReplayed(BaseModel):
    object: Literal["webhook_event"]
    id: str


class EventAttempt(BaseModel):
    id: str
    """`atmpt_…`."""
    http_status_code: int
    """0: there was no answer; `response` says why."""
    response: str
    """The first 4 KiB."""
    sent_at: str


class AttemptList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[EventAttempt]


def cursor_after(prefix: str) -> dict[str, Any]:
    """For `openapi_extra` of a list whose ids are no UUIDs and that goes in one direction (resend.md §1.3)."""
    limit = {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}
    after = {"type": "string", "pattern": f"^{prefix}[0-9A-Za-z]{{27}}$"}
    return {
        "parameters": [
            {"name": "limit", "in": "query", "required": False, "schema": limit},
            {"name": "after", "in": "query", "required": False, "schema": after},
        ]
    }
