"""One mail in the making: from MAIL to the end of DATA."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID


@dataclass(slots=True)
class Transaction:
    mail_from: str
    smtputf8: bool
    body_8bit: bool
    recipients: list[tuple[str, UUID]] = field(default_factory=list)
    """Address and the organization it belongs to, in the order of RCPT, repeats too."""

    def tenants(self) -> dict[UUID, list[str]]:
        """Organization → its recipients, each once."""
        found: dict[UUID, dict[str, None]] = {}
        for address, org_id in self.recipients:
            found.setdefault(org_id, {})[address] = None
        return {org_id: list(addresses) for org_id, addresses in found.items()}
