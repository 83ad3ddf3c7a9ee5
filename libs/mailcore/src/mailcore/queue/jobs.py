"""Every job that crosses a process border. Reading this file gives the map of the system.

A bell wakes a runner and carries at most an id; losing one costs a sweep (QUEUE__SWEEP_SECONDS), never mail.
A chore is work on a row that is the truth; running it twice does what running it once does.

bell       rung by                              served by      wakes
outbound   flow.submit, flow.settle (due again) outbound       the site's runner: claim what is due
route      flow.receive, api (release)          inbound_smtp   the router: claim arrivals
webhooks   whoever commits an event with a      webhooks       the runner: claim due webhook deliveries
           subscribed endpoint
accounts   api (account added or changed)       imap_sync      the account's session

chore      enqueued by                          served by      safe twice because
verify     api: POST /domains/:id/verify        outbound       writes what DNS says now into the domain's row
claim      api: POST /domains/:id/claim/verify  outbound       moves a claim on; one that has ended stays as it is
upkeep     cron, hourly                         outbound       makes what is missing, deletes what is expired
report     flow.settle (its caller)             outbound       the rows that are owed a report are claimed, and get one once
health     api: POST /v1/health/sending         outbound       writes what it finds now over what was found before
order      api: POST /v1/queue/flush, …          outbound       touches only rows that still wait; an order that is done stays so
release    api: POST /v1/alarms/:id/end         outbound       makes due what waits for something that is over by then
train      api: POST /v1/messages/:id/report    inbound_smtp   scanners know which mails they have learned
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bell:
    name: str
    service: str
    """Whose arq queue it goes to."""


@dataclass(frozen=True, slots=True)
class Chore:
    name: str
    service: str


OUTBOUND = Bell("outbound", "outbound")
ROUTE = Bell("route", "inbound_smtp")
WEBHOOKS = Bell("webhooks", "webhooks")
ACCOUNTS = Bell("accounts", "imap_sync")

VERIFY = Chore("verify", "outbound")
CLAIM = Chore("claim", "outbound")
UPKEEP = Chore("upkeep", "outbound")
REPORT = Chore("report", "outbound")
HEALTH = Chore("health", "outbound")
ORDER = Chore("order", "outbound")
RELEASE = Chore("release", "outbound")
TRAIN = Chore("train", "inbound_smtp")

BELLS = (OUTBOUND, ROUTE, WEBHOOKS, ACCOUNTS)
CHORES = (VERIFY, CLAIM, UPKEEP, HEALTH, ORDER, RELEASE, REPORT, TRAIN)


def arq_queue(service: str) -> str:
    return f"postroom:arq:{service}"


def bell_key(bell: Bell, key: str) -> str:
    return f"postroom:bell:{bell.name}:{key}"
