"""Ways out: what an account may be set to, and which route a mail takes.

1. `Kinds`      the settings of each kind of way, checked; what is secret among them is sealed apart from the rest
2. `RoutesOut`  the route of a mail by its organization, its sender's domain and its tags, chosen where it is submitted

Which way of its route a mail takes is decided where it leaves (outbound.ways): the first whose site does not rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator

from mailcore.kit.errors import Invalid
from mailcore.kit.remember import Remembered
from mailcore.kit.seal import Keyring
from mailcore.providers.base import Account
from mailcore.providers.registry import VENDORS
from mailcore.store.session import Store
from mailcore.store.ways import FIND_RULES, Rule, WayRow
from mailcore.transport import TlsPolicy

PURPOSE = "way"
"""Of the seal."""
ROUTES_SECONDS = 5.0
"""How long routes are believed: mail takes a new one within that."""
NO_ROUTE = 0


# ---- 1. kinds --------------------------------------------------------------------------------------------------------


SUBMISSIONS = 465
STARTTLS_PORTS = (25, 587)
TENANTS_PORTS = (25, 465, 587, 2525)
"""That a tenant may name for a smart host …"""
LMTP_PORTS = (24, 2003, 2424, 7025)
"""… and for a server that takes mail by LMTP; never 25 (RFC 2033 §5)."""


def smart_host_tls(tls: str, port: int) -> TlsPolicy:
    """RFC 8314 §7.3: port 465 has no STARTTLS."""
    return TlsPolicy.IMPLICIT if tls == "required" and port == SUBMISSIONS else TlsPolicy(tls)


class SmartHost(BaseModel):
    """A mail server that takes our mail for everywhere, usually with a name and a password (RFC 6409, RFC 4954)."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    vendor: ClassVar[str] = "smarthost"
    lmtp: ClassVar[bool] = False
    ports: ClassVar[tuple[int, ...]] = TENANTS_PORTS
    """That a tenant may name."""

    host: Annotated[str, StringConstraints(min_length=1, max_length=253, to_lower=True)]
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    tls: Literal["none", "opportunistic", "required", "implicit"] = "required"
    """required: a certificate that is good for the host's name, after STARTTLS, or on port 465 from the first octet on (RFC 8314);
    implicit: that on any port. A password leaves over TLS or to loopback only."""
    username: Annotated[str, StringConstraints(min_length=1, max_length=320)] | None = None
    password: SecretStr | None = None

    @model_validator(mode="after")
    def _port_speaks_it(self) -> SmartHost:
        if self.tls == "implicit" and self.port in STARTTLS_PORTS:
            raise ValueError(
                f"on port {self.port} TLS begins with STARTTLS; set `port`, for implicit TLS usually to 465"
            )
        return self

    @property
    def policy(self) -> TlsPolicy:
        return smart_host_tls(self.tls, self.port)

    def events(self) -> None:
        """A 250 is all it says; what fails later comes back as a mail."""
        return


class Lmtp(SmartHost):
    """A server with mailboxes that takes mail by LMTP (RFC 2033): for received mail that a route hands on."""

    vendor: ClassVar[str] = "lmtp"
    lmtp: ClassVar[bool] = True
    ports: ClassVar[tuple[int, ...]] = LMTP_PORTS

    port: Annotated[int, Field(ge=1, le=65535)] = 24
    tls: Literal["none", "opportunistic", "required", "implicit"] = "opportunistic"

    @model_validator(mode="after")
    def _not_smtp(self) -> Lmtp:
        if self.port == 25:
            raise ValueError("port 25 is for SMTP (RFC 2033 §5); LMTP usually has 24")
        return self


KINDS: Mapping[str, type[Account] | type[SmartHost]] = {SmartHost.vendor: SmartHost, Lmtp.vendor: Lmtp, **VENDORS}


def check(kind: str, given: Mapping[str, Any]) -> Account | SmartHost:
    """Raises Invalid with what to change; never with a secret in it."""
    model = KINDS.get(kind)
    if model is None:
        raise Invalid(f"The `kind` must be one of {', '.join(KINDS)}.", field="kind")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(("settings", *(str(part) for part in first["loc"])))
        if first["type"] == "missing":
            raise Invalid(f"A way of kind {kind} needs `{field}`.", field=field) from None
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise Invalid(f"A way of kind {kind} has no `{field}`. It has: {known}.", field=field) from None
        if first["type"] == "string_pattern_mismatch":
            raise Invalid(f"Invalid `{field}`: it has not the form that {kind} gives it.", field=field) from None
        words = first["msg"].removeprefix("Value error, ")
        raise Invalid(f"Invalid `{field}`: {words}.", field=field) from None


def parted(account: Account | SmartHost) -> tuple[dict[str, Any], dict[str, str]]:
    """What may be shown, and what may not."""
    shown, secrets = {}, {}
    for name in type(account).model_fields:
        value = getattr(account, name)
        if isinstance(value, SecretStr):
            secrets[name] = value.get_secret_value()
        elif not _is_secret(type(account), name):
            shown[name] = value
    return shown, secrets


def secret_names(kind: str) -> list[str]:
    return [name for name in KINDS[kind].model_fields if _is_secret(KINDS[kind], name)]


def _is_secret(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return annotation is SecretStr or annotation == SecretStr | None


def seal(keyring: Keyring, secrets: Mapping[str, str]) -> bytes:
    return keyring.seal(orjson.dumps(secrets), PURPOSE)


def unseal(keyring: Keyring, sealed: bytes) -> dict[str, str]:
    """Raises Refused when it was sealed with another key."""
    opened: dict[str, str] = orjson.loads(keyring.open(sealed, PURPOSE))
    return opened


def account_of(keyring: Keyring, row: WayRow) -> Account | SmartHost:
    """Raises Refused and Invalid: the key is another, or the kind is no more."""
    return check(row.kind, {**row.settings, **unseal(keyring, row.secrets_sealed)})


# ---- 2. routes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one organization, the most particular first."""

    ordered: tuple[Rule, ...]

    def route(self, domain_id: UUID, tags: Sequence[Mapping[str, str]] | None, *, requiretls: bool = False) -> int:
        """What its lanes name the route by, below zero for mail with REQUIRETLS; NO_ROUTE where there is none."""
        for rule in self.ordered:
            if rule.domain_id not in (None, domain_id):
                continue
            if rule.tag_name is None or any(
                tag.get("name") == rule.tag_name and rule.tag_value in (None, tag.get("value")) for tag in tags or ()
            ):
                return -rule.lane_route if requiretls else rule.lane_route
        return NO_ROUTE


def rank(rule: Rule) -> tuple[bool, bool, bool, bool, bool]:
    """An organization's own goes before the installation's; a tag before a domain, both before either, one of them before none."""
    return (not rule.own, rule.for_org is None, rule.tag_name is None, rule.tag_value is None, rule.domain_id is None)


class RoutesOut:
    """One a process that submits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rules: Remembered[UUID, Rules] = Remembered(self._ask, seconds=ROUTES_SECONDS)

    def held(self, org_id: UUID) -> Rules | None:
        """`of` where the answer is here."""
        return self._rules.held(org_id)

    async def of(self, org_id: UUID) -> Rules:
        """Raises Unavailable."""
        return await self._rules.get(org_id) or Rules(())

    async def _ask(self, org_id: UUID) -> Rules:
        rows = await self._store.lookup(FIND_RULES, org_id)
        return Rules(tuple(sorted((Rule(*row) for row in rows), key=rank)))
