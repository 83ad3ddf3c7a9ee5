"""Somebody else's mail that goes on as it came: what stands before it, and what is needed to send it.

    forward   to another address, elsewhere: our return path, the octets as they came, one ARC set of ours on top (RFC 8617)
    relay     to another server of its own organization: the sender's return path, our Authentication-Results on top and none that
              only claims to be ours below

Stored as `emails.passed_on` by routing (flow.pass_on), read by outbound. Never signed by DKIM: From is not ours. Each attempt of
each process makes the same octets, but for the seal of a domain whose key has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any, Literal

from mailcore.mailauth.arc.seal import seal
from mailcore.mailauth.arc.validate import as_found
from mailcore.mailauth.dkim.keys import RSA_SHA256, SigningKey
from mailcore.mailauth.results import header_end
from mailcore.store.arrivals import Stored

RELAYED_FOR = "Postroom-Relayed-For"
"""What tells a relay that the mail has been through here for that address; Delivered-To is the last server's own."""


@dataclass(frozen=True, slots=True)
class PassedOn:
    kind: Literal["forward", "relay"]
    arrival_id: str
    mail_from: str
    """Of a relay: the return path that it leaves with; of a forward empty where it must have none (RFC 5321 §4.5.5)."""
    head: str
    """Fields to put before it, each with its CRLF. ASCII."""
    server: str = ""
    """Of a forward: our name in the ARC set …"""
    results: tuple[str, ...] = ()
    """… what we found, one a method …"""
    cv: str = ""
    """… and of the chain before. Empty: it takes no set, because it could not be judged."""

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "kind": self.kind,
            "arrival_id": self.arrival_id,
            "mail_from": self.mail_from,
            "head": self.head,
        }
        if self.cv:
            told |= {"server": self.server, "results": list(self.results), "cv": self.cv}
        return told

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> PassedOn:
        return cls(**told | {"results": tuple(told.get("results") or ())})

    def octets(self, raw: bytes, keys: tuple[SigningKey, ...], *, now: int) -> bytes:
        """As it leaves. `now`: seconds since 1970, of the seal. Raises Invalid: its header is none, and cannot be sealed."""
        whole = self.head.encode("ascii") + raw
        key = next((each for each in keys if each.algorithm == RSA_SHA256), None)  # the one that everybody knows
        if not self.cv or key is None:
            return whole
        end = header_end(whole)
        head, body = whole[:end], whole[end + 2 :]
        return seal(head, body, as_found(head, self.cv), key, server=self.server, results=self.results, now=now) + whole


def received(row: Stored, recipient: str | None, server: str) -> str:
    """The Received field that the arrival would have had (RFC 5321 §4.4): its raw mail is kept without one. `server`: our name."""
    facts = row.facts
    by = _word(facts.get("by") or server) or "postroom"
    came = (
        f"from {_word(facts.get('helo') or '') or 'unknown'} ([{_word(str(facts.get('peer_ip') or row.source))}])\r\n\t"
    )
    wanted = f"\r\n\tfor <{recipient}>" if recipient and _is_plain(recipient) else ""
    if row.door != "smtp":
        came = ""
    protocol = f" with {_word(facts.get('protocol') or 'SMTP')}" if row.door == "smtp" else ""
    return f"Received: {came}by {by}{protocol} id {row.id}{wanted};\r\n\t{format_datetime(row.created_at)}\r\n"


def _word(text: str) -> str:
    """A peer says what it likes: only what cannot be read as anything else stands in a field."""
    return "".join(char for char in text[:255] if char.isascii() and (char.isalnum() or char in ".-_:"))


def _is_plain(address: str) -> bool:
    return address.isascii() and address.isprintable() and not set(' <>;"()\\') & set(address)


def address_field(name: str, address: str) -> str:
    """Empty for an address that has no place in a field of ASCII."""
    return f"{name}: {address}\r\n" if _is_plain(address) else ""


def results_of(header: str) -> tuple[str, ...]:
    """What our own Authentication-Results field says, for an ARC set (mailauth.arc.seal): in a line each, without semicolons."""
    value = header.partition(":")[2].strip("\r\n ")
    items = value.split(";\r\n\t")[1:]
    return tuple(item.replace("\r\n\t", "").replace(";", ",").strip()[:800] for item in items)
