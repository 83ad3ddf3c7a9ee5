from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.body import Asked

MAX_BATCH = 100

Email = Annotated[str, Field(max_length=1000)]
Emails = Annotated[list[Email], Field(min_length=1, max_length=MAX_BATCH)]


class NewSuppression(Asked):
    email: Email


class NewSuppressions(Asked):
    emails: Emails


class GoneSuppressions(Asked):
    """Either `emails` or `ids`."""

    emails: Emails | None = None
    ids: Annotated[list[str], Field(min_length=1, max_length=MAX_BATCH)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.emails is None) == (self.ids is None):
            raise ValueError("Give either `emails` or `ids`, not both")
        return self


class SuppressionId(BaseModel):
    object: str = "suppression"
    id: str


class SuppressionIds(BaseModel):
    data: list[SuppressionId]


class SuppressionSummary(BaseModel):
    id: str
    email: str = Field(description="As it is compared: in lower case, the domain in A-labels.")
    origin: Literal["bounce", "complaint", "manual"]
    source_id: str | None = Field(description="The email that bounced or was complained about.")
    created_at: str


class Suppression(SuppressionSummary):
    object: str = "suppression"


class SuppressionList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[SuppressionSummary]


class SuppressionGone(SuppressionId):
    deleted: bool = True


class SuppressionsGone(BaseModel):
    data: list[SuppressionGone]
