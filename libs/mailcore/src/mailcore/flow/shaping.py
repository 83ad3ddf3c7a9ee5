"""Shaping as data: what each site bears, and what to do about what it says.

shaping.toml        shipped with the program: large providers, by suffix of their MX hosts, and a default
a file of the operator's own, of the same form: its values win, its rules are asked first
`sites.limits` and `sites.rules`: of one site, set by the API; they win over both

The form of the files stands at the head of shaping.toml. Patterns are RE2's: matching is linear in the reply, whoever wrote them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import re2
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mailcore.dsn.classify import classify
from mailcore.dsn.rules import Category
from mailcore.kit.errors import Invalid, Refused
from mailcore.smtp.reply import Reply

MAX_RULES = 50
"""Of one site."""
MAX_PATTERN = 500
MAX_SUBJECT = 1_000
"""Characters of a reply that are looked at."""
RATES: Mapping[str, float] = {"per_second": 1.0, "per_minute": 60.0, "per_hour": 3600.0}
"""Names of rates, and the seconds that each is about."""

Reaction: TypeAlias = Literal["slow", "suspend", "suspend-tenant", "suspend-source"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")


def seconds(text: str) -> float:
    """`90s`, `15m`, `2h`, `1d`. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None or not 0 < (found := int(match[1]) * _UNITS[match[2]]) <= 30 * 86400:
        raise ValueError("Write a duration as 90s, 15m, 2h or 1d; 30d at most")
    return float(found)


def _compiled(pattern: str) -> str:
    _compile(pattern)
    return pattern


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else error
        raise ValueError(
            f"Not a regular expression of RE2: {said.decode() if isinstance(said, bytes) else said}"
        ) from None


def _duration(text: str) -> str:
    seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class RuleForm(BaseModel):
    """A rule as files and the API write it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    match: Annotated[str, Field(min_length=1, max_length=MAX_PATTERN), AfterValidator(_compiled)]
    class_: Annotated[Category | None, Field(alias="class", strict=False)] = None
    do: Reaction
    for_: Annotated[Duration, Field(alias="for")]
    times: Annotated[int, Field(ge=1, le=1000)] = 1
    within: Duration = "1h"


class LimitsForm(BaseModel):
    """Limits as files and the API write them; None: whatever stands below."""

    model_config = ConfigDict(extra="forbid", strict=True)

    connections: Annotated[int, Field(ge=1, le=10_000)] | None = None
    mails_per_connection: Annotated[int, Field(ge=1, le=100_000)] | None = None
    per_second: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    per_hour: Annotated[int, Field(ge=1, le=100_000_000)] | None = None

    def given(self) -> dict[str, int]:
        return {name: value for name in LimitsForm.model_fields if (value := getattr(self, name)) is not None}


class _Section(LimitsForm):
    mx: list[Annotated[str, Field(min_length=2, max_length=253)]] = Field(default_factory=list)
    rules: Annotated[list[RuleForm], Field(max_length=MAX_RULES)] = Field(default_factory=list)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    default: _Section = Field(default_factory=_Section)
    provider: dict[str, _Section] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do when a site says that."""

    name: str
    """`google 2`: where it stands, counted from 1."""
    pattern: Any
    category: Category | None
    """None: whatever the reply is classed as."""
    do: Reaction
    seconds: float
    times: int
    within: float
    provider: str | None
    """Whose rule it is: what he says of a source holds for all of his sites. None: everybody's, or one site's."""

    def matches(self, subject: str) -> bool:
        return self.pattern.search(subject) is not None

    @property
    def identity(self) -> Hashable:
        """What is counted together: another rule at its place counts anew."""
        return self.name, self.pattern.pattern, self.category, self.do, self.times, self.within


@dataclass(frozen=True, slots=True)
class Shape:
    """What holds for one site."""

    provider: str | None
    suffixes: tuple[str, ...]
    """Of the provider's mail hosts."""
    connections: int
    mails_per_connection: int
    rates: tuple[tuple[int, float], ...]
    """Mails, in so many seconds; each is a ceiling of its own."""
    rules: tuple[Rule, ...]

    def speaks_for(self, rule: Rule, host: str | None) -> str | None:
        """The provider, where it is his rule and a host of his that said so: what a host beside his says is of one site. Whoever
        writes an MX record may name a provider's hosts beside his own, and then says by his own what he likes."""
        his = host is not None and any(_ends(host.lower(), suffix) for suffix in self.suffixes)
        return rule.provider if his else None

    def reaction_to(self, reply: Reply) -> Rule | None:
        """The first rule that speaks of it."""
        if reply.code < 400 or not self.rules:
            return None
        subject = " ".join(str(reply)[:MAX_SUBJECT].split())  # `.` stops at the end of a line
        return next((rule for rule in self.rules if rule.matches(subject) and _classed(rule, reply)), None)


def _classed(rule: Rule, reply: Reply) -> bool:
    return rule.category is None or classify(reply).category is rule.category


MOST_KNOWN = 20_000
"""Sites whose provider is remembered: each heartbeat asks for all that are at work, and each mail while a source is barred."""


class Shaping:
    def __init__(self, layers: Sequence[_File]) -> None:
        """Later layers win."""
        self._limits: dict[str | None, dict[str, int]] = {None: {}}
        self._rules: dict[str | None, tuple[Rule, ...]] = {None: ()}
        self._suffixes: list[tuple[str, str]] = []
        for layer in layers:
            self._add(None, layer.default)
            for name, section in layer.provider.items():
                self._add(name, section)
        self._hosts: dict[str | None, tuple[str, ...]] = {
            name: tuple(suffix for suffix, whose in self._suffixes if whose == name) for _, name in self._suffixes
        }
        self._found = lru_cache(MOST_KNOWN)(self._find)

    def _add(self, name: str | None, section: _Section) -> None:
        self._limits[name] = self._limits.get(name, {}) | section.given()
        self._rules[name] = _rules(name or "default", section.rules, name) + self._rules.get(name, ())
        # of a later layer first: an operator may take hosts out of a shipped provider
        self._suffixes[:0] = [(suffix.lower(), name) for suffix in section.mx if name is not None]

    @classmethod
    def load(cls, own: str | None = None) -> Shaping:
        """`own`: path of the operator's file. Raises Refused with the place when a file is not as it should be."""
        layers = [_read("shaping.toml", files("mailcore.flow").joinpath("shaping.toml").read_text())]
        if own:
            try:
                text = Path(own).read_text()
            except OSError as error:
                raise Refused(f"The shaping file {own} cannot be read: {error.strerror}.") from error
            layers.append(_read(own, text))
        return cls(layers)

    def provider(self, key: str) -> str | None:
        """Whose site that is, by any of its hosts: a backup elsewhere makes it no other provider's."""
        return self._found(key)

    def _find(self, key: str) -> str | None:
        hosts = hosts_of(key)
        return next((name for suffix, name in self._suffixes if any(_ends(host, suffix) for host in hosts)), None)

    def shape(
        self,
        key: str,
        *,
        connections: int,
        mails_per_connection: int,
        limits: Mapping[str, int] | None = None,
        rules: Sequence[Mapping[str, Any]] = (),
    ) -> Shape:
        """What holds for that site. The numbers are for where nothing else is said; `limits` and `rules` are its own."""
        provider = self.provider(key)
        found: dict[str, int] = {"connections": connections, "mails_per_connection": mails_per_connection}
        found |= self._limits[None]
        found |= self._limits.get(provider, {}) if provider else {}
        found |= {name: value for name, value in (limits or {}).items() if value is not None}
        own = _rules("site", [RuleForm.model_validate(dict(rule)) for rule in rules])
        given = self._rules.get(provider, ()) if provider else ()
        return Shape(
            provider,
            self._hosts.get(provider, ()),
            found["connections"],
            found["mails_per_connection"],
            tuple((found[name], span) for name, span in RATES.items() if name in found),
            own + given + self._rules[None],
        )


def hosts_of(key: str) -> list[str]:
    """`mx:a,b` and `mx:a,b#digest` → a, b; `smarthost:host:587` → host. A `domain:` whose hosts are not known has none."""
    kind, _, rest = key.partition(":")
    if kind == "mx":
        return rest.lower().partition("#")[0].split(",")
    return [] if kind == "domain" else [rest.rpartition(":")[0].lower() or rest.lower()]


def _ends(host: str, suffix: str) -> bool:
    return host.endswith(suffix) if suffix.startswith(".") else host == suffix


def _rules(where: str, forms: Sequence[RuleForm], provider: str | None = None) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"{where} {place}",
            _compile(form.match),
            form.class_,
            form.do,
            seconds(form.for_),
            form.times,
            seconds(form.within),
            provider,
        )
        for place, form in enumerate(forms, 1)
    )


def _read(name: str, text: str) -> _File:
    try:
        return _File.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise Refused(f"The shaping file {name} is no TOML: {error}.") from error
    except ValidationError as error:
        where, words = _wrong(error)
        raise Refused(f"The shaping file {name} is wrong at {where}: {words}.") from error


def checked_rules(asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rules of a site as they are stored. Raises Invalid."""
    if len(asked) > MAX_RULES:
        raise Invalid(f"A site may have {MAX_RULES} rules at most.")
    stored = []
    for place, rule in enumerate(asked, 1):
        try:
            stored.append(_stored(RuleForm.model_validate(dict(rule))))
        except ValidationError as error:
            where, words = _wrong(error)
            raise Invalid(f"Invalid rule {place}, `{where}`: {words}.") from error
    return stored


def _wrong(error: ValidationError) -> tuple[str, str]:
    """Where, and what is wrong there, of the first."""
    first = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ").rstrip(".")


def _stored(form: RuleForm) -> dict[str, Any]:
    return form.model_dump(mode="json", by_alias=True, exclude_none=True)
