"""One error type with one question: temporary or permanent? Unknown is temporary.

MailError
├── Refused          permanent: the same request will fail again
│   ├── Invalid      the caller's input is wrong; `field` says where
│   ├── NotFound     what is asked for does not exist, or not for this tenant
│   └── Conflict     it clashes with what is already there
├── Unavailable      temporary: try again later
└── Exceeded         temporary: a quota is used up until a certain time

Each edge maps it once: api/errors.py to HTTP, inbound_smtp/replies.py to SMTP.
"""

from __future__ import annotations


class MailError(Exception):
    """`public` is for the person at the other end: what is wrong and what to do next. Details go to the log, not here."""

    temporary = True
    code = 451
    enhanced = "4.3.0"

    def __init__(
        self, public: str, *, name: str | None = None, code: int | None = None, enhanced: str | None = None
    ) -> None:
        super().__init__(public)
        self.public = public
        self.name = name
        self.code = code or self.code
        self.enhanced = enhanced or self.enhanced


class Unavailable(MailError):
    pass


class Exceeded(MailError):
    code = 450
    enhanced = "4.7.1"

    def __init__(self, public: str, *, name: str, retry_after: int) -> None:
        """`retry_after`: seconds until it is worth another try."""
        super().__init__(public, name=name)
        self.retry_after = retry_after


class Refused(MailError):
    temporary = False
    code = 550
    enhanced = "5.7.1"


class Invalid(Refused):
    code = 501
    enhanced = "5.5.4"

    def __init__(
        self,
        public: str,
        *,
        field: str | None = None,
        name: str | None = None,
        code: int | None = None,
        enhanced: str | None = None,
    ) -> None:
        super().__init__(public, name=name, code=code, enhanced=enhanced)
        self.field = field


class NotFound(Refused):
    enhanced = "5.1.1"


class Conflict(Refused):
    enhanced = "5.5.0"


def is_temporary(error: BaseException) -> bool:
    """Whether to try again: only a Refused says no; everything unknown is temporary."""
    return not (isinstance(error, MailError) and not error.temporary)
