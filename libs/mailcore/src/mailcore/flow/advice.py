"""What a domain's owner should know beyond the required records, by how this installation really sends.

`[{"topic", "status", "message"}, …]` and, where a record is advised, its `name`, `type` and `value`. Topics: Records, Claim,
SPF, DKIM, ReturnPath, DMARC, MTA-STS, TLS-RPT, Tracking. Statuses: ok, missing, warning, unknown (not looked up yet, or the DNS did
not answer). No I/O: what was looked up stands in the row (`seen`, flow.verify).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mailcore.dns.required import SPF_TXT, Published, dkim_record, relative_name, required_records, tracking_key
from mailcore.dns.suffixes import registered_domain
from mailcore.dns.verdict import FAILED, TEMPORARY, VERIFIED
from mailcore.mailauth.dkim.keys import ADVISED_RSA_BITS
from mailcore.mailauth.dkim.record import parse_record
from mailcore.mailauth.spf.count import MAX_LOOKUPS, MAX_MX, MAX_VOID

PATIENCE = timedelta(hours=72)
Item = dict[str, Any]


def advice(row: Mapping[str, Any], published: Published) -> list[Item]:
    """`row`: columns of `domains` with `dkim`."""
    items = [*_lost(row, published), *_taken(row), *_dkim(row)]
    if row["sending"]:
        items += [*_spf(row), _return_path(row, published), _dmarc(row)]
    if row["receiving"]:
        items += [_mta_sts(row, published), _tls_rpt(row)]
    return items + _tracking(row, published)


def _item(topic: str, status: str, message: str, record: tuple[str, str, str] | None = None) -> Item:
    item: Item = {"topic": topic, "status": status, "message": message}
    if record is not None:
        item["name"], item["type"], item["value"] = relative_name(record[0]), record[1], record[2]
    return item


def _lost(row: Mapping[str, Any], published: Published) -> list[Item]:
    lost = [
        f"{each.type} {each.fqdn}"
        for each in required_records(row, published)
        if row["record_status"].get(each.key) == TEMPORARY and not each.record.startswith("Tracking")
    ]
    if not lost:
        return []
    if row["waiting_since"] is None:
        return [
            _item("Records", "warning", f"The DNS did not answer for {', '.join(lost)}. Nothing changes meanwhile.")
        ]
    end = (row["waiting_since"] + PATIENCE).isoformat(timespec="minutes")
    text = f"Published before and missing now: {', '.join(lost)}. Publish again before {end}, or the domain fails then."
    return [_item("Records", "warning", text)]


def _taken(row: Mapping[str, Any]) -> list[Item]:
    if row["status"] != FAILED or not row["seen"].get("taken"):
        return []
    text = "Another organization has verified this domain. If it is yours, claim it with `POST /domains/claim`."
    return [_item("Claim", "warning", text)]


def _dkim(row: Mapping[str, Any]) -> list[Item]:
    items = []
    for key in ({**each, "state": "active"} for each in row["dkim"]):
        message = dkim_advice(key, row["name"])
        if message is not None:
            items.append(_item("DKIM", "warning", message))
    for key in row["dkim_other"]:
        message = dkim_advice(key, row["name"])
        if message is None:
            continue
        record = dkim_record(key, row["name"])
        if key["state"] == "pending":
            items.append(_item("DKIM", "missing", message, (record.fqdn, "TXT", record.value)))
        else:
            lost = key["state"] == "retired" or (key["state"] == "retiring" and key["seen"] is False)
            items.append(_item("DKIM", "warning" if lost else "ok", message))
    return items


def dkim_advice(key: Mapping[str, Any], domain: str) -> str | None:
    """What to do about a key. `key`: selector, public_txt, state, and of one that does not sign seen, published_at, keep_until."""
    name = f"{key['selector']}._domainkey.{domain}"
    if key["state"] == "pending":
        return f"Publish {name}: a new key signs once its record has been there for ten minutes. Until then nothing changes."
    if key["state"] == "published":
        return f"{name} was found. Its key signs once the record has been there for ten minutes."
    if key["state"] == "retiring":
        until = _day(key["keep_until"])
        if key["seen"] is False:
            return (
                f"{name} is gone, and mail that its key has signed may be on its way: publish it again until {until}."
            )
        return (
            f"Leave {name} published until {until}: mail that its key has signed may be on its way. It signs no more."
        )
    if key["state"] == "retired":
        return f"{name} may be removed: nothing that its key has signed is under way." if key["seen"] else None
    bits = parse_record(key["public_txt"]).bits
    if key["public_txt"].startswith("v=DKIM1; k=rsa") and bits < ADVISED_RSA_BITS:
        return f"The key of {name} has {bits} bits; {ADVISED_RSA_BITS} are advised. Rotate the domain's keys, or bring another."
    return None


def _day(when: datetime | str) -> str:
    at = datetime.fromisoformat(when) if isinstance(when, str) else when
    return at.isoformat(timespec="minutes")


def _spf(row: Mapping[str, Any]) -> list[Item]:
    name, count = row["name"], row["seen"].get("spf")
    if count is None:
        return []
    wrong = []
    if count["records"] > 1:
        wrong.append(f"There are {count['records']} SPF records; receivers take that for an error. Keep one.")
    if count["loop"]:
        wrong.append("The record includes itself.")
    if count["lookups"] > MAX_LOOKUPS:
        more = "at least " if count["incomplete"] else ""
        wrong.append(
            f"Evaluating it takes {more}{count['lookups']} DNS lookups; past {MAX_LOOKUPS} receivers ignore the record "
            "(RFC 7208 §4.6.4). Remove what no longer sends for you, or write addresses as ip4: and ip6:."
        )
    if count.get("wide_mx"):
        wrong.append(f"One of its mx terms finds more than {MAX_MX} hosts; receivers take that for an error.")
    if count["void"] > MAX_VOID:
        wrong.append(f"{count['void']} of its names do not exist; more than {MAX_VOID} are an error. Remove them.")
    if wrong:
        return [_item("SPF", "warning", f"SPF of {name}: {' '.join(wrong)}")]
    return [_item("SPF", "ok", f"SPF of {name} takes {count['lookups']} of {MAX_LOOKUPS} DNS lookups.")]


def _return_path(row: Mapping[str, Any], published: Published) -> Item:
    """How mail really leaves, and what the return path's SPF has to cover."""
    path = f"{row['custom_return_path']}.{row['name']}"
    covers = f"SPF of {path} names `{published.spf}`"
    bounces = f"Bounces go to {path}, whose MX brings them to {published.mx_host}."
    if published.route == "catch":
        return _item("ReturnPath", "ok", f"{bounces} This installation catches all mail: none leaves it.")
    if published.route == "mx":
        ips = row["seen"].get("leaves_from") or ([published.source_ip] if published.source_ip else [])
        where = f"from {_few(ips)}" if ips else "from this installation's own addresses"
        uncovered = row["seen"].get("uncovered")
        if uncovered and row["record_status"].get(SPF_TXT) in (VERIFIED, TEMPORARY):
            text = (
                f"{bounces} Mail leaves {where}, but SPF of {path} does not cover {_few(uncovered)}: receivers may refuse what "
                f"comes from there. Ask the operator to add what is missing to POSTROOM_DOMAINS__SPF (`{published.spf}`)."
            )
            return _item("ReturnPath", "warning", text)
        return _item("ReturnPath", "ok", f"{bounces} Mail leaves {where}; {covers}, which must cover them.")
    via = "a smart host" if published.route == "smarthost" else "a provider"
    if published.spf == f"a:{published.mx_host}":
        text = (
            f"{bounces} Mail leaves by {via}, but {covers}, which does not. Ask the operator to set POSTROOM_DOMAINS__SPF to "
            f"the mechanism of {via}."
        )
        return _item("ReturnPath", "warning", text)
    return _item("ReturnPath", "ok", f"{bounces} Mail leaves by {via}; {covers}, which must cover its addresses.")


def _few(ips: Sequence[str]) -> str:
    return ", ".join(ips[:5]) + (f" and {len(ips) - 5} more" if len(ips) > 5 else "")


def _dmarc(row: Mapping[str, Any]) -> Item:
    name, found = row["name"], row["seen"].get("dmarc")
    # where mail comes to us: store.addresses.REPORTS
    host = name if row["receiving"] else f"{row['custom_return_path']}.{name}"
    record = (f"_dmarc.{name}", "TXT", f"v=DMARC1; p=none; rua=mailto:dmarc@{host}")
    if found:
        return _item("DMARC", "ok", f"Published: {found}")
    above = registered_domain(name)
    inherits = "" if above in (None, name) else f" Without it the policy of {above} holds."
    text = f"Large providers ask senders for a DMARC policy. Begin with p=none, then quarantine, then reject.{inherits}"
    return _item("DMARC", _absent(found), text, record)


def _mta_sts(row: Mapping[str, Any], published: Published) -> Item:
    name, found = row["name"], row["seen"].get("mta_sts")
    if found:
        return _item("MTA-STS", "ok", f"Published: {found}")
    policy = f"version: STSv1\nmode: testing\nmx: {published.mx_host}\nmax_age: 604800\n"
    id_ = hashlib.sha256(policy.encode()).hexdigest()[:16]  # RFC 8461 §3.1: another policy, another id
    text = (
        "Tells senders to use TLS only. Besides this record, serve this text at "
        f"https://mta-sts.{name}/.well-known/mta-sts.txt: {policy.strip()!r}"
    )
    return _item("MTA-STS", _absent(found), text, (f"_mta-sts.{name}", "TXT", f"v=STSv1; id={id_}"))


def _tls_rpt(row: Mapping[str, Any]) -> Item:
    name, found = row["name"], row["seen"].get("tls_rpt")
    if found:
        return _item("TLS-RPT", "ok", f"Published: {found}")
    record = (f"_smtp._tls.{name}", "TXT", f"v=TLSRPTv1; rua=mailto:tls-reports@{name}")
    return _item("TLS-RPT", _absent(found), "Asks senders to report when TLS to you fails (RFC 8460).", record)


def _absent(found: str | None) -> str:
    return "unknown" if found is None else "missing"


def _tracking(row: Mapping[str, Any], published: Published) -> list[Item]:
    if not (row["open_tracking"] or row["click_tracking"]):
        return []
    subdomain = row["tracking_subdomain"]
    if subdomain is None:
        return [_item("Tracking", "warning", "Set a `tracking_subdomain`, so that links carry your own domain.")]
    if row["record_status"].get(tracking_key(subdomain)) in ("verified", TEMPORARY):
        return []
    name = f"{subdomain}.{row['name']}"
    text = f"Links do not use {name} until its CNAME to {published.tracking_host} is found."
    return [_item("Tracking", "warning", text)]
