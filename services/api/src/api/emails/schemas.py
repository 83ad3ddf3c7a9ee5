"""What /openapi.json says of sending. The bodies are read by parse.py; these describe, they do not validate."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.pages import PARAMETERS


class Attachment(BaseModel):
    content: str | list[int] | None = Field(None, description="Base64, or an array of byte values.")
    path: str | None = Field(None, description="http or https URL that the server fetches.")
    filename: str | None = None
    content_type: str | None = Field(None, description="Default: by the file name.")
    content_id: str | None = Field(None, description="Makes it an inline image that the html names as `cid:…`.")


class Tag(BaseModel):
    name: str = Field(pattern="^[A-Za-z0-9_-]{1,256}$")
    value: str = ""


class Tracking(BaseModel):
    opens: bool | None = None
    clicks: bool | None = None


class SendEmail(BaseModel):
    from_: str = Field(alias="from", description="`a@b.c` or `Name <a@b.c>`, of a verified domain.")
    to: str | list[str] = Field(description="With cc and bcc at most 50 addresses.")
    subject: str
    html: str | None = Field(None, description="One of html and text is required.")
    text: str | None = Field(None, description="Made from the html when left out; empty: no text part.")
    cc: str | list[str] | None = None
    bcc: str | list[str] | None = None
    reply_to: str | list[str] | None = None
    headers: dict[str, str] | None = None
    attachments: list[Attachment] | None = None
    tags: list[Tag] | None = None
    scheduled_at: str | None = Field(
        None, description="ISO 8601 or English such as `tomorrow at 9am ET`, at most 30 days ahead."
    )
    tracking: Tracking | None = Field(None, description="Left out: as the domain of `from` says.")
    open_tracking: bool | None = Field(None, description="As `tracking.opens`.")
    click_tracking: bool | None = Field(None, description="As `tracking.clicks`.")


class EmailId(BaseModel):
    id: str


class BatchError(BaseModel):
    index: int
    message: str


class BatchSent(BaseModel):
    data: list[EmailId]
    errors: list[BatchError] | None = Field(None, description="Only with `x-batch-validation: permissive`.")


class EmailSummary(BaseModel):
    id: str
    message_id: str
    to: list[str]
    from_: str = Field(alias="from")
    created_at: str
    subject: str
    bcc: list[str] | None
    cc: list[str] | None
    reply_to: list[str] | None
    last_event: str
    scheduled_at: str | None
    topic_id: str | None


class Email(EmailSummary):
    object: str = "email"
    html: str | None
    text: str | None
    tags: list[Tag]


class EmailList(BaseModel):
    object: str | None = Field("list", description="Not with `page` or `per_page`.")
    has_more: bool
    data: list[EmailSummary]
    total: int | None = Field(None, description="Only with `page` or `per_page`, as the three below; at most 100,000.")
    page: int | None = None
    per_page: int | None = None
    total_pages: int | None = None


class EmailChanged(BaseModel):
    object: str = "email"
    id: str


class EmailShared(EmailChanged):
    url: str = Field(description="A page that shows the email. Whoever has the URL needs no key.")


class SentAttachment(BaseModel):
    id: str
    filename: str | None
    size: int = Field(description="Bytes.")
    content_type: str
    content_disposition: str = Field(description="`inline` or `attachment`.")
    content_id: str | None
    download_url: str = Field(description="Signed; fetched without a key, for an hour.")
    expires_at: str


class AttachmentFound(SentAttachment):
    object: str = "attachment"


class AttachmentList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[SentAttachment]


class Attempt(BaseModel):
    attempt: int = Field(
        description="1 for the first; 0 tells how often a 421 turned the mail away, which counts as none; below 0 an order of the "
        "operator that left it where it is."
    )
    at: str
    outcome: str
    site: str | None
    mx_host: str | None
    mx_ip: str | None
    source_ip: str | None
    tls: str | None
    tls_policy: str | None = Field(
        description="What ruled it: opportunistic, required, dane, dane-unusable, mta-sts, mta-sts-testing, none."
    )
    code: int | None
    enhanced_code: str | None
    reply: str | None
    rule: str | None = Field(description="Ours, where it was not the peer's reply that decided.")
    category: str | None = Field(description="What a refusal is about: hard, soft, policy, block, infrastructure, …")
    category_rule: str | None = Field(description="The rule that says so.")
    possible_duplicate: bool
    conversation: list[dict[str, str]] = Field(
        description="`{at, said}` by us, `{at, heard}` from the peer; for 30 days after the email was accepted."
    )


class NextAttempt(BaseModel):
    at: str | None = Field(description="Null while it is under way.")
    attempt: int
    why: str


class Report(BaseModel):
    action: str = Field(description="failed, delayed, relayed.")
    at: str = Field(description="Since when it is owed.")
    email_id: str | None = Field(description="The report itself, an email like any other. Null: not written yet.")
    given_up: str | None = Field(description="Why there will be none.")


class Delivery(BaseModel):
    recipient: str
    state: str
    site: str | None
    possible_duplicate: bool
    next_attempt_at: str | None = Field(description="As `next_attempt` says.")
    next_attempt: NextAttempt | None
    attempts: list[Attempt]
    reports: list[Report] = Field(description="To who handed the mail in by SMTP, where he asked to be told.")


class DeliveryList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[Delivery]


class MetricsRow(BaseModel, extra="allow"):
    """Beside these a number for each metric."""

    period: str | None = Field(None, description="When it begins, ISO 8601 in the time zone asked for.")
    domain_id: str | None = None
    domain_name: str | None = None
    email_id: str | None = None
    broadcast_id: str | None = None
    broadcast_name: str | None = None


class Metrics(BaseModel):
    object: str = "metrics"
    start_date: str
    end_date: str
    metrics: list[str]
    dimensions: list[str]
    granularity: str
    totals: dict[str, float]
    data: list[MetricsRow] | None = Field(None, description="Left out without `dimensions`.")


class MailItMetrics(BaseModel):
    period: str
    from_: str = Field(alias="from")
    to: str
    totals: dict[str, float]
    data: list[dict[str, str | float]]


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(ref_template="#/components/schemas/{model}")


_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    "description": "For 24 hours the same request under the same key is answered as the first time, and sent once.",
}
SEND: dict[str, Any] = {
    "parameters": [_KEY],
    "requestBody": {"required": True, "content": {"application/json": {"schema": _schema(SendEmail)}}},
}
_EMAILS = {
    "type": "array",
    "minItems": 1,
    "maxItems": 100,
    "items": {"$ref": "#/components/schemas/SendEmail"},
}
SEND_BATCH: dict[str, Any] = {
    "parameters": [
        _KEY,
        {
            "name": "x-batch-validation",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "enum": ["strict", "permissive"], "default": "strict"},
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _EMAILS,
                        {"type": "object", "required": ["emails"], "properties": {"emails": _EMAILS}},
                    ]
                }
            }
        },
    },
}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_TEXT = {"type": "string"}
LIST: dict[str, Any] = {
    "parameters": [
        *PARAMETERS["parameters"],
        _query("to", "A whole address that it went to, by To, Cc or Bcc.", _TEXT),
        _query("from", "Part of the sender.", _TEXT),
        _query("subject", "Part of the subject.", _TEXT),
        _query("tag", "`name` or `name:value`.", _TEXT),
        _query("status", "Its `last_event`.", _TEXT),
        _query("start_date", "ISO 8601 date or date and time.", _TEXT),
        _query("end_date", "ISO 8601; of a date the whole day.", _TEXT),
        _query("page", "MailIt's form of the list: the page's number.", {"type": "integer", "minimum": 1}),
        _query("per_page", "MailIt's form of the list.", {"type": "integer", "minimum": 1, "maximum": 100}),
    ]
}
METRICS_QUERY: dict[str, Any] = {
    "parameters": [
        _query("start_date", "ISO 8601 date or date and time. Default: six days before `end_date`.", _TEXT),
        _query("end_date", "ISO 8601; of a date the whole day. Default, and at most: now.", _TEXT),
        _query("timezone", "IANA name; default UTC.", _TEXT),
        _query("granularity", "Of `period`; default daily.", _TEXT),
        _query("metrics", "Comma-separated or repeated; default all.", _TEXT),
        _query("dimensions", "`period`, `domain`, and `email` or `broadcast`; comma-separated or repeated.", _TEXT),
        _query("domain_id", "Up to 100; comma-separated or repeated.", _TEXT),
        _query("email_id", "Up to 100; comma-separated or repeated.", _TEXT),
        _query("broadcast_id", "Up to 100; comma-separated or repeated.", _TEXT),
    ]
}
