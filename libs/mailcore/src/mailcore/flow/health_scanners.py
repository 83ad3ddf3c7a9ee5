"""The health check of scanners: each that has an address is shown a small mail, as inbound-smtp would show it one.

A language model and DNS blocklists are left out: the one is paid by the question, the others are asked about strangers only.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from mailcore.dns.resolver import Resolver
from mailcore.flow.health_checks import OK, UNKNOWN, WRONG
from mailcore.kit.errors import Invalid, Unavailable
from mailcore.kit.settings import Scanners
from mailcore.mime.parse import Message
from mailcore.scanners.base import Facts, Verdict
from mailcore.scanners.registry import Configured, configured
from mailcore.store.health import Finding

ASKED = ("spamhaus", "spamd", "rspamd", "clamd")
SECONDS = 15.0
"""A scanner that takes longer than this, or than its settings say, counts as away."""
_FROM = "postmaster@example.com"
_MAIL = (
    f"From: <{_FROM}>\r\nTo: <{_FROM}>\r\nSubject: Are you there?\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
    "Message-ID: <health@example.com>\r\n\r\nPostroom asks whether this scanner answers.\r\n"
).encode()


async def examine(settings: Scanners, resolver: Resolver) -> list[Finding]:
    """One finding a scanner; none: no scanner is on. Raises nothing of its own."""
    try:
        on = [each for each in configured(settings, resolver) if each.scanner.name in ASKED]
    except Invalid as error:
        return [Finding("scanner", "", WRONG, error.public, "Correct POSTROOM_SCANNERS__* (docs/scanners.md).")]
    async with AsyncExitStack() as stack:
        for each in on:
            stack.push_async_callback(each.scanner.close)
        return list(await asyncio.gather(*(_ask(each, settings) for each in on)))


async def _ask(one: Configured, settings: Scanners) -> Finding:
    scanner = one.scanner
    name, where = scanner.name, str(getattr(settings, scanner.name, ""))
    if where.startswith("/") and not Path(where).parent.exists():
        text = f"{name} listens at {where}, a socket that is not on this machine."
        return Finding("scanner", name, UNKNOWN, text, "")
    facts = Facts("health", None, "example.com", _FROM, (_FROM,), len(_MAIL), Message(_MAIL).summary())
    try:
        async with asyncio.timeout(min(scanner.seconds, SECONDS)):
            found = await scanner.scan(_MAIL, facts)
    except TimeoutError:
        return _away(one, "it does not answer in time.")
    except Unavailable as error:
        return _away(one, error.public)
    except Exception as error:  # what it says may be anything
        return _away(one, f"it answers what cannot be understood ({type(error).__name__}).")
    if found.verdict is Verdict.UNAVAILABLE:
        return _away(one, found.detail)
    return Finding("scanner", name, OK, f"{name} answers.")


def _away(one: Configured, words: str) -> Finding:
    name = one.scanner.name
    setting = f"POSTROOM_SCANNERS__{name.upper()}" + ("_USERNAME, _PASSWORD and _URL" if name == "spamhaus" else "")
    meanwhile = "goes on without being scanned" if one.fail_open else "that it must look at waits"
    text = f"{name} is away: {words.rstrip('.')}. Mail {meanwhile} until it is back."
    return Finding("scanner", name, WRONG, text, f"See that it runs, what it logs, and that {setting} leads to it.")
