"""The DNS records that a customer's domain needs: what the API tells to publish and what verification looks for.

SPF          at the return path's name: MX, so that bounces come back, and TXT with `v=spf1` (RFC 7208)
DKIM         a TXT a key (RFC 6376 §3.6.2); of a domain that only receives the first one, as the proof of whose it is: its MX
             is the same for everybody
Receiving    MX of the domain itself, where it receives
Tracking     CNAME of the tracking subdomain, and of those before it, which mail that was sent links to
TrackingCAA  CAA at the tracking subdomain, where the domain's CAA keep our authority from making its certificate (RFC 8659)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailcore.dns.suffixes import registered_domain

SPF_MX = "spf_mx"
SPF_TXT = "spf_txt"
RECEIVING = "receiving_mx"
PRIORITY = 10


@dataclass(frozen=True, slots=True)
class Published:
    """What we tell customers to publish."""

    mx_host: str
    spf: str
    """The mechanism that covers us; or several, with blanks between."""
    tracking_host: str = ""
    """Where tracking subdomains point. Empty: no tracking records."""
    tracking_caa: str = ""
    """The authority of their certificates, `letsencrypt.org`. Empty: no CAA records."""
    route: str = "mx"
    """How mail leaves: mx, smarthost, provider, catch."""
    source_ip: str | None = None
    """The address it leaves from, where it is known."""


def dkim_key(selector: str) -> str:
    """The name under which a DKIM record's status is kept."""
    return f"dkim:{selector}"


def tracking_key(subdomain: str) -> str:
    # the column domains.tracking_verified is generated from this name
    return f"tracking:{subdomain}"


def caa_key(subdomain: str) -> str:
    return f"tracking_caa:{subdomain}"


@dataclass(frozen=True, slots=True)
class Required:
    key: str
    """Under which `domains.record_status` keeps its status."""
    record: str
    """SPF, DKIM, Receiving, Tracking, TrackingCAA."""
    fqdn: str
    type: str
    """MX, TXT, CNAME or CAA."""
    value: str
    """Of an MX the host without priority; of a TXT the text without quotes."""
    priority: int | None = None

    def shown(self, status: str, *, webhook: bool = False) -> dict[str, Any]:
        """As the API shows it, or a webhook, which calls one record by another name (resend.md §6)."""
        shown: dict[str, Any] = {
            "record": "Receiving MX" if webhook and self.record == "Receiving" else self.record,
            # Tracking records carry their name in full
            "name": self.fqdn if self.record.startswith("Tracking") else relative_name(self.fqdn),
            "type": self.type,
            "ttl": "Auto",
            "status": status,
            # the SPF text carries its own quotes, as on the live service
            "value": f'"{self.value}"' if self.record == "SPF" and self.type == "TXT" else self.value,
        }
        if self.priority is not None:
            shown["priority"] = self.priority
        return shown


def dkim_record(key: Mapping[str, Any], domain: str) -> Required:
    """`key`: `selector` and `public_txt`."""
    fqdn = f"{key['selector']}._domainkey.{domain}"
    return Required(dkim_key(key["selector"]), "DKIM", fqdn, "TXT", key["public_txt"])


def required_records(domain: Mapping[str, Any], published: Published) -> list[Required]:
    """`domain`: columns of `domains`, and `dkim`: `[{selector, public_txt}]`, the RSA key first."""
    name = domain["name"]
    keys = [dkim_record(key, name) for key in domain["dkim"]]
    records: list[Required] = []
    if domain["sending"]:
        path = f"{domain['custom_return_path']}.{name}"
        records += [
            Required(SPF_MX, "SPF", path, "MX", published.mx_host, PRIORITY),
            Required(SPF_TXT, "SPF", path, "TXT", f"v=spf1 {published.spf} ~all"),
            *keys,
        ]
    if domain["receiving"]:
        records += [] if domain["sending"] else keys[:1]
        records.append(Required(RECEIVING, "Receiving", name, "MX", published.mx_host, PRIORITY))
    return records + _tracking(domain, published)


def _tracking(domain: Mapping[str, Any], published: Published) -> list[Required]:
    records: list[Required] = []
    if not published.tracking_host or domain["tracking_subdomain"] is None:
        return records
    for subdomain in (domain["tracking_subdomain"], *domain["old_tracking"]):
        name = f"{subdomain}.{domain['name']}"
        records.append(Required(tracking_key(subdomain), "Tracking", name, "CNAME", published.tracking_host))
        if published.tracking_caa and caa_key(subdomain) in domain["record_status"]:
            value = f'0 issue "{published.tracking_caa}"'
            records.append(Required(caa_key(subdomain), "TrackingCAA", name, "CAA", value))
    return records


def relative_name(fqdn: str) -> str:
    """The name as a DNS panel wants it, relative to the registered domain: `send`, `send.updates`, `@`."""
    zone = registered_domain(fqdn)
    return "@" if zone is None or zone == fqdn else fqdn.removesuffix(f".{zone}")
