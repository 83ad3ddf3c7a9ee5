"""The DNS records that a customer's domain needs: what the API tells to publish and what verification looks for.

SPF         at the return path's name: MX, so that bounces come back, and TXT with `v=spf1` (RFC 7208)
DKIM        a TXT a key (RFC 6376 §3.6.2)
Receiving   MX of the domain itself, where it receives
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SPF_MX = "spf_mx"
SPF_TXT = "spf_txt"
RECEIVING = "receiving_mx"
PRIORITY = 10

# second levels under which names are registered in countries that have them: example.co.uk is one zone, not a part of co.uk
_SECOND_LEVELS = frozenset(("ac", "co", "com", "edu", "gov", "net", "or", "org"))


def dkim_key(selector: str) -> str:
    """The name under which a DKIM record's status is kept."""
    return f"dkim:{selector}"


@dataclass(frozen=True, slots=True)
class Required:
    key: str
    """Under which `domains.record_status` keeps its status."""
    record: str
    """SPF, DKIM, Receiving."""
    fqdn: str
    type: str
    """MX or TXT."""
    value: str
    """Of an MX the host without priority; of a TXT the text without quotes."""
    priority: int | None = None


def required_records(
    domain: str,
    *,
    dkim: Sequence[tuple[str, str]],
    mx_host: str,
    spf: str,
    return_path: str,
    sending: bool,
    receiving: bool,
) -> list[Required]:
    """`dkim`: selector and TXT value of each active key. `spf`: the mechanism that covers us."""
    records: list[Required] = []
    if sending:
        name = f"{return_path}.{domain}"
        records += [
            Required(SPF_MX, "SPF", name, "MX", mx_host, PRIORITY),
            Required(SPF_TXT, "SPF", name, "TXT", f"v=spf1 {spf} ~all"),
            *(
                Required(dkim_key(selector), "DKIM", f"{selector}._domainkey.{domain}", "TXT", value)
                for selector, value in dkim
            ),
        ]
    if receiving:
        records.append(Required(RECEIVING, "Receiving", domain, "MX", mx_host, PRIORITY))
    return records


def relative_name(fqdn: str) -> str:
    """The name as a DNS panel wants it, relative to the registered domain: `send`, `send.updates`, `@`."""
    labels = fqdn.split(".")
    zone = 3 if len(labels) > 2 and labels[-2] in _SECOND_LEVELS and len(labels[-1]) == 2 else 2
    return ".".join(labels[:-zone]) or "@"
