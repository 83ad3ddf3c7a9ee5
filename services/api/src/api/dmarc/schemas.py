from __future__ import annotations

from pydantic import BaseModel, Field

from api.body import Asked

MAX_CONTENT = 2_800_000
"""Of base64: a report of `dsn.dmarc_report.MAX_PACKED` octets, and line ends."""


class Upload(Asked):
    content: str = Field(description="The report's file in base64: XML, gzip or zip.", max_length=MAX_CONTENT)


class ReportSummary(BaseModel):
    id: str
    domain_id: str
    domain: str
    arrival_id: str | None = Field(description="The mail that it came in; null: it was uploaded.")
    source: str = Field(description="Sender of that mail.")
    proven: str | None = Field(
        description="The domain that DMARC proved to have written that mail. Null: nobody is proven. Anybody may send a report."
    )
    organization: str = Field(description="Who reports, by their own word.")
    contact: str
    report_id: str
    begins_at: str
    ends_at: str
    messages: int
    passed: int = Field(description="Of them, with DKIM or SPF aligned.")
    failed: int
    quarantined: int
    rejected: int
    received_at: str


class Result(BaseModel):
    result: str
    domain: str | None = None
    selector: str | None = None
    scope: str | None = None


class Results(BaseModel):
    dkim: list[Result]
    spf: list[Result]


class Reason(BaseModel):
    type: str
    comment: str


class Row(BaseModel):
    source_ip: str
    messages: int
    dkim_aligned: bool
    spf_aligned: bool
    disposition: str = Field(description="What the receiver did: none, quarantine, reject.")
    header_from: str
    envelope_from: str
    reasons: list[Reason] = Field(description="Why it did otherwise than the policy asks.")
    results: Results


class Report(ReportSummary):
    object: str = "dmarc_report"
    policy: dict[str, str] = Field(description="As the receiver found it published.")
    defects: list[str] = Field(description="What of the report could not be read, or was left out.")
    rows: list[Row] = Field(description="Those with the most messages first; at most 2,000 are kept.")


class ReportList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[ReportSummary]


class Uploaded(BaseModel):
    object: str = "dmarc_report"
    id: str | None = Field(description="Null: it was here already.")
    domain: str
    report_id: str


class Counts(BaseModel):
    domain_id: str
    domain: str
    messages: int
    passed: int
    failed: int
    quarantined: int
    rejected: int
    first_seen: str = Field(
        description="Begin of the first report that tells of it, within the time that is asked for."
    )
    last_seen: str
    failing_since: str | None = Field(description="Begin of the first report of mail that failed; null: none did.")
    last_failed: str | None


class Source(Counts):
    source_ip: str
    dkim_aligned: int = Field(description="Messages with DKIM aligned.")
    spf_aligned: int
    header_from: list[str] = Field(description="Domains in From; of many the first 20.")
    envelope_from: list[str]
    reported_by: list[str]


class SourceList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[Source]


class Domain(Counts):
    sources: int
    failing_sources: int
    reports: int


class DomainList(BaseModel):
    object: str = "list"
    data: list[Domain]
