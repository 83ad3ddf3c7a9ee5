"""One mail in the making: from MAIL to the end of its message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

from inbound_smtp.checks.paths import Destination
from mailcore.smtp.dsn import Notify, Ret

R = TypeVar("R")


@dataclass(slots=True)
class Transaction(Generic[R]):
    mail_from: str
    smtputf8: bool
    body_8bit: bool
    recipients: list[R] = field(default_factory=list)
    """In the order of RCPT, repeats too."""


@dataclass(slots=True)
class Incoming(Transaction[tuple[str, "UUID | None"]]):
    """From the world. A recipient is his address and the organization it belongs to; None: a return path that we made, and its mail
    is a report."""

    ret: Ret | None = None
    envid: str | None = None
    wanted: dict[str, Destination] = field(default_factory=dict)
    """Of recipients about whom the sender said what he wants to hear (RFC 3461 §4)."""

    @property
    def dsn(self) -> dict[str, Any] | None:
        """For the facts of the arrival. None: nothing was said."""
        if not (self.ret or self.envid or self.wanted):
            return None
        asked = {
            recipient: {
                "notify": ",".join(word for word in Notify if word in each.notify) or None,
                "orcpt": ";".join(each.orcpt) if each.orcpt else None,
            }
            for recipient, each in self.wanted.items()
        }
        return {"ret": self.ret, "envid": self.envid, "recipients": asked}
