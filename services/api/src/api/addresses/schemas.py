"""What /v1/addresses takes and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.body import Asked

Text = Annotated[str, Field(max_length=1000)]


class NewAddress(Asked):
    address: Text
    """Of a domain of the organization. With a +tag it stands for mail with that tag only."""
    kind: Literal["alias", "reject"]
    """alias: mail to it lies in the mailboxes of `targets`; reject: it is refused while it is sent, 550 5.1.1, whatever the domain
    does with unknown addresses."""
    targets: list[Text] = Field(default_factory=list, max_length=100)
    """Of an alias: addresses of the organization's own domains. Elsewhere leads a route that forwards."""


class ChangedAddress(Asked):
    """What is left out stays as it is."""

    kind: Literal["alias", "reject"] = "alias"
    targets: list[Text] = Field(default_factory=list, max_length=100)


class AddressSummary(BaseModel):
    id: str
    address: str
    """As it is compared: in lower case, the domain in A-labels."""
    kind: Literal["alias", "reject"]
    targets: list[str]
    domain_id: str
    created_at: str


class Address(AddressSummary):
    object: Literal["address"]


class AddressList(BaseModel):
    object: Literal["list"]
    has_more: bool
    data: list[AddressSummary]


class AddressGone(BaseModel):
    object: Literal["address"]
    id: str
    deleted: Literal[True]
