"""What a route of received mail looks for: conditions as their owner writes them, and as they are tried.

    match = Match.model_validate({"recipient": "support+*@example.com", "auth": {"dmarc": ["fail"]}})
    holds = conditions(match)          # tried with Facts, each True, False, or None: not known yet

All conditions must hold; of several patterns or values of one condition one is enough. A pattern is a glob (`*`, `?`) that fits the
whole text, or `{"regex": …}` of RE2, found anywhere in it. Both run in linear time whatever the text is, and neither knows capital
letters.

Not known yet is an answer of its own: at RCPT there is no header. Whoever decides there must not take it for a no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import re2
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

MAX_PATTERN = 200
MAX_PATTERNS = 20
"""Of one condition."""
MAX_HEADERS = 10
MAX_SUBJECT = 4096
"""Characters of a header field, or of a subject, that are looked at."""
_PATTERN_MEMORY = 1 << 20
_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a mail. None: not known yet; of a list, empty: there is none."""

    sender: str
    """Of the envelope; empty: a report's."""
    door: str | None = None
    size: int | None = None
    from_: Sequence[str] | None = None
    """Addresses of the From field."""
    subject: Sequence[str] | None = None
    headers: Mapping[str, Sequence[str]] | None = None
    """Lower-case name → values, decoded."""
    attachments: bool | None = None
    automatic: bool | None = None
    """Nobody wrote it by hand (RFC 3834): mime.automatic."""
    verdicts: Sequence[str] | None = None
    """Of the scanners."""
    scores: Sequence[float] | None = None
    auth: Mapping[str, str] | None = None
    """Method → result: spf, dkim, dmarc, arc."""


# ---- as written ------------------------------------------------------------------------------------------------------


def _checked(pattern: str) -> str:
    _compile(pattern)
    return pattern


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else error
        raise ValueError(
            f"Not a regular expression of RE2: {said.decode('utf-8', 'replace') if isinstance(said, bytes) else said}"
        ) from None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Regex(_Model):
    regex: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN), AfterValidator(_checked)]


def _written_as(value: object) -> str:
    """So that an error is about what was meant."""
    return "any" if isinstance(value, list) else "regex" if isinstance(value, dict | Regex) else "glob"


_Glob: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN), Tag("glob")]
_Regex: TypeAlias = Annotated[Regex, Tag("regex")]
Pattern: TypeAlias = Annotated[_Glob | _Regex, Discriminator(_written_as)]
_Any: TypeAlias = Annotated[list[Pattern], Field(min_length=1, max_length=MAX_PATTERNS), Tag("any")]
Patterns: TypeAlias = Annotated[_Glob | _Regex | _Any, Discriminator(_written_as)]


class HeaderMatch(_Model):
    name: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,76}$")]
    value: Patterns | None = None
    """Left out: the field is there, whatever it says."""


class Range(_Model):
    min: float | None = None
    max: float | None = None
    """Both inclusive."""

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("A range has `min`, `max` or both.")
        return self


class AuthMatch(_Model):
    spf: list[Literal["none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"]] | None = None
    dkim: list[Literal["none", "pass", "fail", "policy", "neutral", "temperror", "permerror"]] | None = None
    """Of several signatures the best result counts."""
    dmarc: list[Literal["none", "pass", "fail", "temperror", "permerror"]] | None = None
    arc: list[Literal["none", "pass", "fail"]] | None = None


class Match(_Model):
    """Empty: every mail."""

    recipient: Patterns | None = None
    """Of the envelope: the address the mail came to."""
    sender: Patterns | None = None
    """Of the envelope; of reports it is empty, which no pattern but `*` and a regex fits."""
    from_: Annotated[Patterns | None, Field(alias="from")] = None
    """Any address of the From field."""
    subject: Patterns | None = None
    headers: Annotated[list[HeaderMatch] | None, Field(max_length=MAX_HEADERS)] = None
    """Each of them."""
    size: Range | None = None
    """Octets."""
    attachments: bool | None = None
    automatic: bool | None = None
    """Auto-replies, reports, lists and bulk mail (RFC 3834)."""
    door: list[Literal["smtp", "resend", "cloudflare", "imap"]] | None = None
    verdict: list[Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,30}$")]] | None = None
    """A scanner said one of these (scanners.base.Verdict): clean, unsure, spam, infected, listed, skipped, unavailable."""
    score: Range | None = None
    """Of any spam filter, by its own scale."""
    auth: AuthMatch | None = None


# ---- as tried --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    name: str
    wanted: str
    read: Callable[[Facts, str], Any]
    """What it looks at, of a mail and one of its recipients; None: not known yet."""
    fits: Callable[[Any], bool]
    of_recipient: bool = False

    def holds(self, facts: Facts, recipient: str) -> bool | None:
        found = self.read(facts, recipient)
        return None if found is None else self.fits(found)

    def explained(self, facts: Facts, recipient: str) -> dict[str, Any]:
        found = self.read(facts, recipient)
        return {
            "condition": self.name,
            "wanted": self.wanted,
            "found": None if found is None else _words(found),
            "holds": None if found is None else self.fits(found),
        }


def all_hold(tried: Iterable[Condition], facts: Facts, recipient: str) -> bool | None:
    """False as soon as one does not hold, for whatever is not known yet cannot mend that."""
    unknown = False
    for each in tried:
        holds = each.holds(facts, recipient)
        if holds is False:
            return False
        unknown = unknown or holds is None
    return None if unknown else True


def conditions(match: Match) -> list[Condition]:
    """What costs least comes first."""
    found: list[Condition] = []

    def add(name: str, wanted: Any, read: Callable[[Facts], Any], fits: Callable[[Any], bool]) -> None:
        found.append(Condition(name, _wanted(wanted), lambda facts, _: read(facts), fits))

    if match.door is not None:
        add("door", match.door, lambda facts: facts.door, frozenset(match.door).__contains__)
    if match.size is not None:
        add("size", match.size, lambda facts: facts.size, _within(match.size))
    if match.attachments is not None:
        add("attachments", match.attachments, lambda facts: facts.attachments, match.attachments.__eq__)
    if match.automatic is not None:
        add("automatic", match.automatic, lambda facts: facts.automatic, match.automatic.__eq__)
    if match.auth is not None:
        for method in ("spf", "dkim", "dmarc", "arc"):
            wanted = getattr(match.auth, method)
            if wanted is not None:
                add(f"auth.{method}", wanted, _result(method), frozenset(wanted).__contains__)
    if match.verdict is not None:
        among = frozenset(match.verdict)
        add("verdict", match.verdict, lambda facts: facts.verdicts, lambda said: not among.isdisjoint(said))
    if match.score is not None:
        within = _within(match.score)
        add("score", match.score, lambda facts: facts.scores, lambda said: any(map(within, said)))
    if match.recipient is not None:
        found.append(
            Condition("recipient", _wanted(match.recipient), lambda _, one: [one], any_of(match.recipient), True)
        )
    if match.sender is not None:
        add("sender", match.sender, lambda facts: [facts.sender], any_of(match.sender))
    if match.from_ is not None:
        add("from", match.from_, lambda facts: facts.from_, any_of(match.from_))
    if match.subject is not None:
        add("subject", match.subject, lambda facts: facts.subject, any_of(match.subject))
    for field in match.headers or ():
        fits = bool if field.value is None else any_of(field.value)
        add(f"headers.{field.name}", "*" if field.value is None else field.value, _header(field.name.lower()), fits)
    return found


def any_of(patterns: Patterns) -> Callable[[Sequence[str]], bool]:
    """Whether one of the texts fits one of the patterns."""
    tried = [_one(pattern) for pattern in (patterns if isinstance(patterns, list) else [patterns])]
    if len(tried) == 1:
        (only,) = tried
        return lambda texts: any(map(only, texts))
    return lambda texts: any(fits(text) for text in texts for fits in tried)


def _one(pattern: Pattern) -> Callable[[str], bool]:
    if isinstance(pattern, Regex):
        return _search(_compile(pattern.regex).search)
    if "?" in pattern:
        signs = {"*": ".*", "?": "."}
        return _search(_compile("".join(signs.get(char) or re2.escape(char) for char in pattern)).fullmatch)
    first, *rest = pattern.lower().split("*")
    return _glob(first, rest[:-1], rest[-1]) if rest else lambda text: text.lower() == first


def _glob(first: str, middle: Sequence[str], last: str) -> Callable[[str], bool]:
    """`first*…*last`: what stands between is found from left to right, each as early as it can be. Linear, and faster than RE2."""
    least = len(first) + len(last)

    def fits(text: str) -> bool:
        text = text[:MAX_SUBJECT].lower()
        if len(text) < least or not (text.startswith(first) and text.endswith(last)):
            return False
        at, end = len(first), len(text) - len(last)
        for part in middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return fits


def _search(search: Callable[[bytes], Any]) -> Callable[[str], bool]:
    # octets cost its wrapper a third of what text does; a lone surrogate, which only strangers write, becomes `?`
    return lambda text: search(text[:MAX_SUBJECT].encode("utf-8", "replace")) is not None


def _within(range_: Range) -> Callable[[float], bool]:
    low = float("-inf") if range_.min is None else range_.min
    high = float("inf") if range_.max is None else range_.max
    return lambda number: low <= number <= high


def _result(method: str) -> Callable[[Facts], str | None]:
    return lambda facts: None if facts.auth is None else facts.auth.get(method, "none")


def _header(name: str) -> Callable[[Facts], Sequence[str] | None]:
    return lambda facts: None if facts.headers is None else facts.headers.get(name, ())


def _wanted(value: Any) -> str:
    """As an explanation shows it."""
    if isinstance(value, Regex):
        return f"/{value.regex}/"
    if isinstance(value, Range):
        low, high = (None if one is None else f"{one:g}" for one in (value.min, value.max))
        return f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
    if isinstance(value, list):
        return " or ".join(_wanted(one) for one in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(found: Any) -> str:
    if isinstance(found, bool):
        return str(found).lower()
    words = ", ".join(map(str, found)) if isinstance(found, (list, tuple)) else str(found)
    return words if len(words) <= _SHOWN else words[: _SHOWN - 1] + "…"
