"""What the connections of a submission port share, and the commands it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from inbound_smtp.listener import Listener
from inbound_smtp.submission.auth import auth
from inbound_smtp.submission.failures import Failures
from inbound_smtp.submission.mail import mail, rcpt
from inbound_smtp.verbs import COMMON, Verb
from mailcore.flow.keys import Keys
from mailcore.flow.parse import Reader
from mailcore.flow.submit import Submits
from mailcore.queue.rate import RateLimiter


@dataclass(slots=True, kw_only=True)
class Submission(Listener):
    verbs: ClassVar[Mapping[str, Verb]] = {**COMMON, "AUTH": auth, "MAIL": mail, "RCPT": rcpt}

    keys: Keys
    submits: Submits
    rate: RateLimiter
    reader: Reader
    failures: Failures
    failure_seconds: float
    """A refused login is answered so long after it was asked for, whatever was wrong with it."""
