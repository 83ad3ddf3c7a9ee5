from __future__ import annotations

from pydantic import BaseModel, Field


class Emails(BaseModel):
    used: int = Field(description="Counted against the quota: each recipient of mail that was accepted.")
    limit: int | None
    sent: int
    received: int
    resets_at: str


class EmailsUsage(BaseModel):
    daily: Emails
    monthly: Emails


class Counted(BaseModel):
    used: int
    limit: int | None


class Credits(Counted):
    next_increase_at: str | None


class Runs(Counted):
    resets_at: str


class Rate(BaseModel):
    limit: int | None
    duration: str


class Usage(BaseModel):
    object: str = "usage"
    emails: EmailsUsage
    contacts: Counted
    segments: Counted
    broadcasts: Counted
    ai_credits: Credits
    automation_runs: Runs
    domains: Counted
    rate_limit: Rate


class SettingsUsage(BaseModel):
    emails_sent_today: int
    emails_sent_month: int
    domains: int
    api_keys: int
    webhooks: int
    contacts: int
