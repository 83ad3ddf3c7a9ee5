"""One mail in the making: from MAIL to the end of DATA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

R = TypeVar("R")


@dataclass(slots=True)
class Transaction(Generic[R]):
    mail_from: str
    smtputf8: bool
    body_8bit: bool
    recipients: list[R] = field(default_factory=list)
    """In the order of RCPT, repeats too."""
