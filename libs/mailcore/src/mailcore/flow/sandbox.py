"""The sandbox: a verified domain of this installation that every organization may send from, to its own members only.

So a new organization sees its first mail arrive before it has a domain, as from `onboarding@resend.dev` (resend.md §3). The
domain is an ordinary one of the operator's organization, which signs with its keys; SANDBOX__DOMAIN names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from mailcore.kit.errors import Refused
from mailcore.smtp.address import Address
from mailcore.store import domains
from mailcore.store.session import Store

SHOWN = 5


class Sandbox:
    def __init__(self, store: Store, domain: str) -> None:
        self._store = store
        self._domain = domain.strip().rstrip(".").lower()

    async def sender(self, org_id: UUID, name: str, recipients: Iterable[Address]) -> UUID | None:
        """The sandbox domain's id, where `name` is it. Raises Refused when a recipient is no member of the organization."""
        if not self._domain or name != self._domain:
            return None
        async with self._store.tenant(org_id) as db:
            id_ = await domains.sandbox_id(db, name)
            members = {row["email"].lower(): row["email"] for row in await db.fetch(_MEMBERS)}
        if id_ is not None and any(str(address).lower() not in members for address in recipients):
            own = ", ".join([*members.values()][:SHOWN]) or "this organization has no members"
            raise Refused(
                f"You can only send testing emails to your own email address ({own}). To send emails to other recipients, please "
                "verify a domain, and change the `from` address to an email using this domain."
            )
        return id_


# row-level security shows a tenant its own members
_MEMBERS = (
    "SELECT u.email FROM users u JOIN memberships m ON m.user_id = u.id ORDER BY m.created_at, u.email LIMIT 1000"
)
