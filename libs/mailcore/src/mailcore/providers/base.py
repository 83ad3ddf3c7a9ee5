"""The seam to a provider: what it is given, what it answers, what it reports later."""

from __future__ import annotations

import base64
import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Protocol, TypeAlias
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr

from mailcore.kit.errors import Invalid
from mailcore.smtp.reply import Reply

REFERENCE = "postroom"
"""The name under which a provider keeps our reference and gives it back with each event."""
MAX_WORDS = 1_000
"""Characters of a provider's words that are kept."""
TOLERANCE_SECONDS = 300
"""How far the time of a signature may be from ours."""


# ---- sending ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Letter:
    """One message for recipients who all get the same octets."""

    mail_from: str
    """Our return path. Few providers let us name it; the others put their own in."""
    recipients: tuple[str, ...]
    content: bytes
    """Header and body with CRLF line ends, signed."""
    reference: str
    """Comes back in the provider's events: letters, digits and dashes, at most 80."""
    key: str
    """The same for every attempt of the same recipients, at most 200 characters: for providers that take idempotency keys."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes

    def json(self) -> Any:
        """The body; an empty object where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    """The provider took it and delivers it later."""
    DELIVERED = "delivered"
    """It is with the recipient's host already."""
    BOUNCED = "bounced"
    """The recipient's host refused it for good."""
    REFUSED = "refused"
    """The provider refuses this mail for good: another attempt gets the same answer."""
    LATER = "later"
    """Not now, for a reason that is about this mail or that nobody knows."""
    LIMITED = "limited"
    """Too many requests."""
    DOWN = "down"
    """The provider does not work just now: nothing else need be tried there."""
    ACCOUNT = "account"
    """It takes nothing from this account: a key that is gone, a quota that is used up, a sending ban."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, understood."""

    verdict: Verdict
    words: str
    """The provider's own, for people."""
    id: str | None = None
    """The provider's, of the message."""
    retry_after: float | None = None
    """Seconds, where the provider names them."""
    unsure: bool = False
    """A failure after which the mail may have been taken all the same."""
    others: Mapping[str, Verdict] = field(default_factory=dict)
    """Recipients, in lower case, whose verdict differs."""


class Sender(Protocol):
    @property
    def host(self) -> str:
        """Of the API, as attempts name it."""
        ...

    @property
    def whole(self) -> bool:
        """It takes the message as it is, so that our octets and signatures reach the recipient."""
        ...

    @property
    def most_recipients(self) -> int:
        """Of one request. 1 where its reports do not say which of several recipients they are about (ADR 0043)."""
        ...

    @property
    def most_octets(self) -> int:
        """Of a message."""
        ...

    def request(self, letter: Letter, now: datetime) -> Request:
        """Raises Refused for a message that cannot be put in this provider's terms."""
        ...

    def read(self, answer: Answer, letter: Letter) -> Reading: ...


# ---- events ----------------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    DELIVERED = "delivered"
    DELAYED = "delayed"
    BOUNCED = "bounced"
    """The recipient's host refused it, now or after it had taken it."""
    FAILED = "failed"
    """The provider gave up for a reason of its own."""
    SUPPRESSED = "suppressed"
    """The address is on the provider's own list of those it sends nothing to."""
    COMPLAINED = "complained"


@dataclass(frozen=True, slots=True)
class Event:
    id: str
    """The provider's, or what of the post is the same whenever it is repeated; one a recipient."""
    kind: Kind
    reference: str
    """Of the Letter."""
    recipient: str
    reply: Reply | None = None
    """What the recipient's host said, or the provider."""
    unsure: bool = False
    """It is about one of several recipients, of whom this is one, and the provider does not say which."""


@dataclass(frozen=True, slots=True)
class Post:
    """What somebody posted, not yet known to be the provider."""

    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes

    def json(self) -> Any:
        """Raises Invalid."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            raise Invalid("The body must be JSON.") from None


Fetch = Callable[[str], Awaitable[bytes]]
"""A small document from the provider: the caller has checked nothing, the URL is checked before it is handed over."""


class Forged(Invalid):
    """The post is not signed as this account's provider signs."""


class EventSource(Protocol):
    async def read(self, post: Post, *, now: float, fetch: Fetch) -> list[Event]:
        """Events about mails, other kinds left out. Raises Forged, before anything else is believed, and Invalid."""
        ...


# ---- accounts --------------------------------------------------------------------------------------------------------


def _for_a_header(value: SecretStr) -> SecretStr:
    # RFC 9110 §5.5; one that was pasted with a line end or a long dash in it could only fail, mail by mail
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("it must be printable ASCII without spaces")
    return value


Token: TypeAlias = Annotated[SecretStr, AfterValidator(_for_a_header)]
"""A secret that a header of each request holds."""


class Account(BaseModel, ABC):
    """Settings and secrets of one account at a provider. Fields of type SecretStr are sealed and never shown."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    vendor: ClassVar[str]

    @abstractmethod
    def sender(self, base_url: str | None = None) -> Sender:
        """`base_url` stands in for the provider's own, where the operator says so."""

    def events(self) -> EventSource | None:
        """None: this account reports nothing, or what signs its posts is not set; then a mail that it took counts as delivered."""
        return None


def secret(value: SecretStr | None) -> str | None:
    return value.get_secret_value() if value else None


# ---- what several vendors do alike -----------------------------------------------------------------------------------


def verdict_of(status: int) -> Verdict:
    """As HTTP means it (RFC 9110 §15); a vendor's own codes go before."""
    if 200 <= status < 300:
        return Verdict.ACCEPTED
    if status in (401, 402, 403, 404, 405, 410, 415, 426):
        # the last ones: this is not the API that we take it for, whatever the mail
        return Verdict.ACCOUNT
    if status == 429:
        return Verdict.LIMITED
    if status == 503:
        return Verdict.DOWN
    if 400 <= status < 500 and status not in (408, 409, 425):
        return Verdict.REFUSED
    return Verdict.LATER


def unsure_of(status: int) -> bool:
    """A gateway that lost its server, or gave it up: what that one did is not known (RFC 9110 §15.6.3, §15.6.5)."""
    return status in (502, 504)


def retry_after(answer: Answer) -> float | None:
    """Seconds (RFC 9110 §10.2.3); a date, which no vendor sends, is passed over."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def failed(answer: Answer, words: object, verdict: Verdict | None = None) -> Reading:
    """A refusal in the provider's words; where it said none, the status."""
    text = words.strip()[:MAX_WORDS] if isinstance(words, str) else ""
    return Reading(
        verdict or verdict_of(answer.status),
        f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}",
        retry_after=retry_after(answer),
        unsure=unsure_of(answer.status),
    )


def accepted(answer: Answer, words: str, id_: str | None) -> Reading:
    """A success with the message's id. Without one it is an answer of somebody else's, behind a wrong base URL or a portal: then
    nobody knows."""
    if id_:
        return Reading(Verdict.ACCEPTED, words, id_)
    return Reading(Verdict.LATER, f"HTTP {answer.status}, and no id of a message", unsure=True)


def endpoint(given: str | None, own: str) -> tuple[str, str]:
    """Of an API: its base URL without a slash at the end, and its host. `given` stands in for the vendor's own."""
    base = (given or own).rstrip("/")
    return base, urlsplit(base).netloc


def json_request(url: str, headers: Mapping[str, str], body: object) -> Request:
    return Request("POST", url, {"Content-Type": "application/json", **headers}, orjson.dumps(body))


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def same(given: str, expected: str) -> bool:
    """In constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def text_of(value: object, most: int = MAX_WORDS) -> str:
    """A string of strangers' JSON; anything else is empty."""
    return value[:most] if isinstance(value, str) else ""


def object_of(value: object) -> dict[str, Any]:
    """An object of strangers' JSON; anything else is empty."""
    return value if isinstance(value, dict) else {}


def objects_of(value: object) -> list[dict[str, Any]]:
    """An array of them, what else is in it empty."""
    return [object_of(each) for each in value] if isinstance(value, list) else []


def strings_of(value: object) -> list[str]:
    """Those of an array of strangers' JSON."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def reply_of(words: str, *, code: object = None, permanent: bool) -> Reply:
    """What a recipient's host said as a provider passes it on: `smtp; 550 5.1.1 no such user`, `550 …`, or words alone."""
    text = words.strip()
    if text.lower().startswith(("smtp;", "x-postfix;", "dns;")):
        text = text.partition(";")[2].strip()
    digits = text[:3]
    if digits.isascii() and digits.isdigit() and digits[0] in "245" and text[3:4] in ("", " ", "-"):
        return Reply.of(int(digits), [text[4:]])
    number = int(code) if isinstance(code, int | str) and str(code).isascii() and str(code).isdigit() else 0
    if not 400 <= number < 600:
        number = 550 if permanent else 451
    return Reply.of(number, [text or "the provider gave no reason"])
