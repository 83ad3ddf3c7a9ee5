"""Runs every method of an installed `resend` from PyPI that this server is to answer; prints what was found, run and refused.

argv[1]: JSON of {"ids": {...}, "hook": url, "claim": domain name}. The list of methods is read from the package itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import sys
import time
from typing import Any

import resend
import resend.version

given = json.loads(sys.argv[1])
ids, hook = given["ids"], given["hook"]
LATER = ("Audience", "Automation", "Broadcast", "Contact", "Event", "Inbox", "Segment", "Template", "Topic")
EMAIL = {"from": "Acme <hello@postroom.test>", "to": ["sdk@example.com"], "subject": "s", "html": "<p>h</p>"}
SCHEDULED = {**EMAIL, "scheduled_at": "in 3 days"}
numbers = iter(range(10_000))


def new(make: Any, params: Any) -> str:
    return str(make(params)["id"])


def scheduled() -> str:
    return new(resend.Emails.send, SCHEDULED)


def domain() -> str:
    return new(resend.Domains.create, {"name": f"sdk-{next(numbers)}-{given['claim']}"})


def webhook() -> str:
    return new(resend.Webhooks.create, {"endpoint": hook, "events": ["email.sent"]})


def suppression() -> str:
    return new(resend.Suppressions.add, {"email": f"sdk-{next(numbers)}@example.com"})


def signed() -> dict[str, Any]:
    """As a handler gets it: Webhooks.verify asks nobody."""
    secret, at, payload = b"0123456789abcdefghijklmn", str(int(time.time())), '{"type":"email.sent"}'
    mac = hmac.new(secret, f"msg_1.{at}.{payload}".encode(), hashlib.sha256).digest()
    headers = {"id": "msg_1", "timestamp": at, "signature": "v1," + base64.b64encode(mac).decode()}
    return {"payload": payload, "headers": headers, "webhook_secret": "whsec_" + base64.b64encode(secret).decode()}


def claim() -> str:
    return str(resend.DomainClaims.create({"name": given["claim"]})["domain_id"])


# method → its arguments
ARGUMENTS: dict[str, Any] = {
    "ApiKeys.create": lambda: [{"name": "sdk"}],
    "ApiKeys.update": lambda: [{"id": ids["api_key"], "api_key_id": ids["api_key"], "name": "sdk 2"}],
    "ApiKeys.list": lambda: [],
    "ApiKeys.remove": lambda: [new(resend.ApiKeys.create, {"name": "gone"})],
    "Batch.send": lambda: [[EMAIL, EMAIL]],
    "DomainClaims.create": lambda: [{"name": given["claim"]}],
    "DomainClaims.get": lambda: [claim()],
    "DomainClaims.verify": lambda: [claim()],
    "Domains.create": lambda: [{"name": f"sdk-{next(numbers)}-{given['claim']}", "region": "eu-west-1"}],
    "Domains.update": lambda: [{"id": domain(), "open_tracking": True, "tls": "enforced"}],
    "Domains.get": lambda: [ids["domain"]],
    "Domains.list": lambda: [],
    "Domains.remove": lambda: [domain()],
    "Domains.verify": lambda: [domain()],
    "EmailAttachments.get": lambda: [ids["email"], ids["sent_attachment"]],
    "EmailAttachments.list": lambda: [ids["email"]],
    "Emails.send": lambda: [{**EMAIL, "attachments": [{"filename": "a.txt", "content": list(b"hi")}]}],
    "Emails.get": lambda: [ids["email"]],
    "Emails.cancel": lambda: [scheduled()],
    "Emails.update": lambda: [{"id": scheduled(), "scheduled_at": soon()}],
    "Emails.share": lambda: [ids["email"]],
    "Emails.list": lambda: [],
    "Emails.metrics": lambda: [{"metrics": ["sent", "delivered"], "dimensions": ["period"]}],
    "EmailsReceiving.Attachments.get": lambda: [ids["received"], ids["attachment"]],
    "EmailsReceiving.Attachments.list": lambda: [ids["received"]],
    "EmailsReceiving.get": lambda: [ids["received"]],
    "EmailsReceiving.list": lambda: [],
    "Logs.get": lambda: [ids["log"]],
    "Logs.list": lambda: [],
    "OAuthGrants.list": lambda: [],
    "OAuthGrants.revoke": lambda: [ids["email"]],
    "Suppressions.add": lambda: [{"email": f"sdk-{next(numbers)}@example.com"}],
    "Suppressions.list": lambda: [],
    "Suppressions.get": lambda: ["never@example.com"],
    "Suppressions.remove": lambda: [suppression()],
    "SuppressionsBatch.add": lambda: [{"emails": ["x@example.com", "y@example.com"]}],
    "SuppressionsBatch.remove": lambda: [{"emails": ["x@example.com"]}],
    "Usage.get": lambda: [],
    "Webhooks.create": lambda: [{"endpoint": hook, "events": ["email.sent"]}],
    "Webhooks.get": lambda: [ids["webhook"]],
    "Webhooks.update": lambda: [{"webhook_id": ids["webhook"], "events": ["email.sent", "email.delivered"]}],
    "Webhooks.list": lambda: [],
    "Webhooks.list_events": lambda: [ids["webhook"]],
    "Webhooks.get_event": lambda: [ids["webhook"], ids["event"]],
    "Webhooks.replay_event": lambda: [ids["webhook"], ids["event"]],
    "Webhooks.list_event_attempts": lambda: [ids["webhook"], ids["event"]],
    "Webhooks.remove": lambda: [webhook()],
    "Webhooks.rotate_signing_secret": lambda: [webhook()],
    "Webhooks.verify": lambda: [signed()],
}
REFUSED = {"OAuthGrants.revoke": "OAuth grant not found. Perhaps it was already revoked?"}
TWINS = {"Emails.Attachments": "EmailAttachments", "Emails.Receiving": "EmailsReceiving", "Emails.Batch": "Batch"}


def soon() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))


def methods() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(kind: type, path: str) -> None:
        for name, value in vars(kind).items():
            if isinstance(value, classmethod | staticmethod) and not name.startswith("_"):
                found[f"{path}.{name}"] = getattr(kind, name)
            elif inspect.isclass(value) and not issubclass(value, dict) and value.__module__.startswith("resend"):
                walk(value, f"{path}.{name}")

    for name in dir(resend):
        kind = getattr(resend, name)
        if inspect.isclass(kind) and not issubclass(kind, Exception) and not name.startswith(LATER):
            walk(kind, name)
    return found


def run(name: str, call: Any) -> str | None:
    """What went wrong, or None."""
    plain = name.removesuffix("_async")
    for twin, known in TWINS.items():
        plain = plain.replace(twin, known) if plain.startswith(twin) else plain
    if plain not in ARGUMENTS:
        return "forgotten"
    try:
        told = call(*ARGUMENTS[plain]())
        if inspect.iscoroutine(told):
            told = asyncio.run(told)
        return f"not refused: {told}" if plain in REFUSED else None
    except Exception as error:
        return None if str(error) == REFUSED.get(plain) else f"{type(error).__name__}: {error}"


found = methods()
wrong = {name: problem for name, call in sorted(found.items()) if (problem := run(name, call)) is not None}
print(json.dumps({"version": resend.version.get_version(), "ran": sorted(found), "wrong": wrong}))
