"""Who sends in bulk, however its mail is handed in, and whether it has what Gmail, Yahoo and Microsoft ask for (flow.gate).

1. `count`   before the hourly health checks: registered domains past the limit, or half the way. Who was past it once is a bulk
             sender for good, as at Gmail. Out of what is counted for metrics: a submit pays nothing
2. `judge`   what one domain lacks; no I/O
3. `look`    after the checks: an alarm of kind `bulk` for each domain that lacks something, ended when that is there

Mail to everybody counts, not only that to their mailboxes, for nothing is counted by receiver: the warning comes early rather than
late. It stops nothing; with REPUTATION__BULK=refuse the alarm of one that is past the limit is a pause (flow.reputation).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from mailcore.dns.suffixes import registered_domain
from mailcore.events import timestamp
from mailcore.flow.gate import Requirement, of_every_mail
from mailcore.flow.reputation import Guarded, Wanted, note, tell
from mailcore.kit.ids import uuid7
from mailcore.kit.settings import Reputation
from mailcore.store import bulk, domains, health, reputation
from mailcore.store.bulk import BulkSender, OpenBulk
from mailcore.store.reputation import NewAlarm
from mailcore.store.session import Store

LIMIT = 5_000
"""More than so many mails within 24 hours: Gmail by the registered domain, Microsoft by the domain of From."""
NEAR = LIMIT // 2
HOURS = 24
REFUSED = frozenset(("SPF", "DKIM", "DMARC", "PTR"))
"""What mail is refused without, so that `refuse` is about these. Complaints have a limit of their own (flow.reputation), and a
certificate that ends in two weeks is no reason to stop today."""


async def count(store: Store) -> None:
    """Raises Unavailable."""
    async with store.worker() as db:
        await bulk.alone(db)
        sent: Counter[str] = Counter()
        for name, n in await bulk.sent(db, HOURS):
            sent[_registered(name)] += n
        reached = {each.domain: each.reached_at for each in (await bulk.senders(db)).values() if each.reached_at}
        now: datetime = await db.fetchval("SELECT now()")
        for name, n in sent.items():
            if n > LIMIT:
                reached.setdefault(name, now)
        near = [name for name, n in sent.items() if n >= NEAR]
        found = [BulkSender(name, sent[name], reached.get(name)) for name in sorted({*near, *reached})]
        await bulk.replace(db, found)


def _registered(name: str) -> str:
    return registered_domain(name) or name


# ---- what it lacks ---------------------------------------------------------------------------------------------------


def judge(
    row: Mapping[str, Any],
    sender: BulkSender,
    found: Sequence[Requirement],
    limits: Reputation,
    before: OpenBulk | None,
) -> tuple[Wanted, dict[str, Any]] | None:
    """What ought to be open for a domain, and its facts; None: it lacks nothing. What is not known now and was missing in the open
    alarm `before` is missing still: a DNS that does not answer mends nothing."""
    then = {each["name"]: each for each in before.facts["missing"]} if before is not None else {}
    missing = [
        then[each.name] if each.status == "unknown" else _shown(each)
        for each in found
        if each.status == "missing" or (each.status == "unknown" and each.name in then)
    ]
    if not missing:
        return None
    reached = sender.reached_at is not None
    refused = [each["name"] for each in missing if each["name"] in REFUSED]
    stop = reached and limits.bulk == "refuse" and bool(refused)
    if reached:
        did = f"sent more than {LIMIT} mails within {HOURS} hours, and is one for good: its mail may be refused"
    else:
        did = f"sent {sender.sent} mails within {HOURS} hours; past {LIMIT} it is one, and its mail may be refused"
    lines = [
        f"{row['name']} lacks what Gmail, Yahoo and Microsoft ask of bulk senders.",
        f"{sender.domain}, with all names below it, {did}.",
        *([f"It sends nothing until {', '.join(refused)} is there, or the operator takes this back."] if stop else []),
        *(f"{each['name']}: {each['text']} {each['advice']}".strip() for each in missing),
    ]
    facts = {
        "registered_domain": sender.domain,
        "sent": sender.sent,
        "reached_at": None if sender.reached_at is None else timestamp(sender.reached_at),
        "missing": missing,
    }
    return Wanted("bulk", "paused" if stop else "warned", " ".join(lines)), facts


def _shown(each: Requirement) -> dict[str, str]:
    shown = asdict(each)
    del shown["status"]
    return shown


def _complaints(text: str | None) -> Requirement:
    """By the guard's alarm: it knows the rate, and when it is too high."""
    if text is None:
        return Requirement("Complaints", "ok", "Few of its mails are marked as spam.")
    return Requirement("Complaints", "missing", text)


def _same(open_: OpenBulk, wanted: Wanted, facts: Mapping[str, Any]) -> bool:
    """Whether the open alarm says it already: numbers and words may differ."""

    def gist(action: str, of: Mapping[str, Any]) -> tuple[str, bool, list[str]]:
        return action, of["reached_at"] is not None, [each["name"] for each in of["missing"]]

    return gist(open_.action, open_.facts) == gist(wanted.action, facts)


def _sorted(
    findings: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], defaultdict[str, list[Mapping[str, Any]]]]:
    """Of each check and status the first, which will do for what all mail shares; and those about one domain, by its name. Each of
    many domains is judged by a few of many findings."""
    shared: dict[tuple[str, str], Mapping[str, Any]] = {}
    own: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in findings:
        shared.setdefault((each["check"], each["status"]), each)
        own[each["subject"].split(" ")[0]].append(each)
    return list(shared.values()), own


# ---- the look --------------------------------------------------------------------------------------------------------


async def look(store: Store, limits: Reputation, *, watch: bool = True) -> Guarded:
    """By what the health checks have just found. Without `watch` nobody is a bulk sender. Raises Unavailable."""
    async with store.worker() as db:
        await bulk.alone(db)
        senders = await bulk.senders(db) if watch else {}
        shared, own = _sorted(await health.findings(db))
        complained = await bulk.complained(db)
        quiet = await bulk.quiet(db)
        open_ = await bulk.open_alarms(db)
        wanted: list[NewAlarm] = []
        over: dict[str, list[OpenBulk]] = {"mended": [], "change": []}
        async for row in domains.sending_below(db, senders):
            sender = senders.get(_registered(row["name"]))
            if sender is None:
                continue
            before = open_.pop(row["id"], None)
            found = [*of_every_mail(row, [*own[row["name"]], *shared]), _complaints(complained.get(row["id"]))]
            judged = judge(row, sender, found, limits, before)
            if before is not None:
                if judged is not None and _same(before, *judged):
                    continue
                over["mended" if judged is None else "change"].append(before)
            elif (row["org_id"], row["name"]) in quiet:
                continue
            if judged is not None:
                alarm, facts = judged
                id_ = (uuid7(), row["org_id"], row["id"], row["name"], None)
                wanted.append(NewAlarm(*id_, alarm.kind, alarm.action, alarm.text, facts))
        over["rate"] = list(open_.values())  # it sends less, or is no sending domain any more
        gone = [row for by, those in over.items() for row in await reputation.end(db, [each.id for each in those], by)]
        raised = [alarm for alarm in wanted if await reputation.raise_(db, alarm)]
        queued = await tell(db, raised, gone)
    note(raised)
    return Guarded(len(raised), len(gone), queued)
