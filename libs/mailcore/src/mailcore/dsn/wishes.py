"""What the sender of a mail asked to be told, as it is kept with the email (RFC 3461 §4).

One JSON object, `{"from", "ret", "envid", "notify", "orcpt"}`: the envelope's sender as it was handed in, and for each recipient,
in the order of the deliveries, NOTIFY as it was said and `rfc822;address`. What is as usual (FAILURE, no ORCPT, headers only) is
left out, so that most have `from` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mailcore.smtp.dsn import DsnRequest, Notify, Ret

USUAL = frozenset((Notify.FAILURE,))
"""Where NOTIFY is not given."""


@dataclass(frozen=True, slots=True)
class Wishes:
    mail_from: str
    """Empty: nobody is to be told anything, and the mail leaves with an empty return path too (RFC 5321 §4.5.5)."""
    recipients: tuple[DsnRequest, ...] = ()
    """In the order of the deliveries; none: all as usual."""

    def of(self, n: int) -> DsnRequest:
        return self.recipients[n] if n < len(self.recipients) else DsnRequest()

    @property
    def full(self) -> bool:
        """A report of failure brings the whole mail back."""
        return self.of(0).ret is Ret.FULL

    @property
    def envid(self) -> str | None:
        return self.of(0).envid

    def wants(self, n: int, what: Notify) -> bool:
        return bool(self.mail_from) and what in (self.of(n).notify or USUAL)

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"from": self.mail_from}
        if self.full:
            told["ret"] = "FULL"
        if self.envid:
            told["envid"] = self.envid
        if any(one.notify for one in self.recipients):
            told["notify"] = [",".join(sorted(one.notify)) or None for one in self.recipients]
        if any(one.orcpt for one in self.recipients):
            told["orcpt"] = [one.orcpt and f"{one.orcpt_type};{one.orcpt}" for one in self.recipients]
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Wishes:
        notify: Sequence[str | None] = told.get("notify") or ()
        orcpt: Sequence[str | None] = told.get("orcpt") or ()
        ret, envid = Ret(told["ret"]) if "ret" in told else None, told.get("envid")
        most = max(len(notify), len(orcpt), 1)
        return cls(
            told.get("from") or "",
            tuple(_request(ret, envid, _at(notify, n), _at(orcpt, n)) for n in range(most)),
        )


def _at(given: Sequence[str | None], n: int) -> str | None:
    return given[n] if n < len(given) else None


def _request(ret: Ret | None, envid: str | None, notify: str | None, orcpt: str | None) -> DsnRequest:
    kind, _, address = (orcpt or "").partition(";")
    asked = frozenset(map(Notify, notify.split(","))) if notify else frozenset()
    return DsnRequest(ret, envid, asked, kind or "rfc822", address or None)
