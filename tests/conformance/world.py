"""An organization that has one of everything, on a running stack, and a stranger: another organization with a key of its own."""

from __future__ import annotations

import base64
import json
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from stack import Stack, wait_for

EMAIL: dict[str, Any] = {
    "from": "Acme <hello@postroom.test>",
    "to": ["you@example.com"],
    "subject": "s",
    "html": "<p>h</p>",
}
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


@dataclass
class World:
    stack: Stack
    api: httpx.Client
    stranger: httpx.Client
    hook: str
    """URL of an endpoint that takes every event."""
    ids: dict[str, str] = field(default_factory=dict)
    """Kind of thing → the id of one that exists."""

    def made(self, path: str, body: Any = None) -> dict[str, Any]:
        return made(self.api, path, body)

    def verified_by(self, owner: httpx.Client, name: str) -> str:
        """The id of a new domain that the owner has proved to be theirs, by the lab's DNS."""
        domain = made(owner, "/domains", {"name": name})
        records = [
            {
                "name": record["name"],
                "type": record["type"],
                "value": f"{record['priority']} {record['value']}"
                if record["type"] == "MX"
                else record["value"].strip('"'),
                "ttl": 60,
            }
            for record in domain["records"]
            if record["record"] in ("SPF", "DKIM")
        ]
        assert self.api.put(f"/v1/lab/dns/{name}", json={"records": records}).status_code < 300
        made(owner, f"/domains/{domain['id']}/verify")
        wait_for(lambda: owner.get(f"/domains/{domain['id']}").json()["status"] == "verified", f"{name} is verified")
        return str(domain["id"])


def made(api: httpx.Client, path: str, body: Any = None) -> dict[str, Any]:
    answer = api.post(path, json=body)
    assert answer.status_code < 300, (path, answer.text)
    told: dict[str, Any] = answer.json()
    return told


@contextmanager
def world(folder: Path) -> Iterator[World]:
    env = {
        "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
        "POSTROOM_IMAP_SYNC__PROCESSES": "0",
        "POSTROOM_NETWORK__ALLOW__WEBHOOKS": "127.0.0.0/8",
    }
    with _endpoint() as hook, Stack(folder / "stack", env=env) as stack:
        foreign = _organization(stack, "Strangers")
        with _client(stack, stack.dev["api_key"]) as api, _client(stack, foreign) as stranger:
            there = World(stack, api, stranger, hook)
            _fill(there)
            yield there


def _client(stack: Stack, key: str) -> httpx.Client:
    return httpx.Client(base_url=stack.dev["api_url"], headers={"authorization": f"Bearer {key}"}, timeout=60)


def _organization(stack: Stack, name: str) -> str:
    argv = [sys.executable, "-m", "postroom", "org", "create", name, "--data", str(stack.data), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    token: str = json.loads(done.stdout)["api_key"]
    return token


@contextmanager
def _endpoint() -> Iterator[str]:
    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        server.server_close()


def _fill(there: World) -> None:
    api, ids = there.api, there.ids

    def first(path: str, what: str = "id") -> str:
        return str(wait_for(lambda: api.get(path).json()["data"], path)[0][what])

    ids["webhook"] = there.made("/webhooks", {"endpoint": there.hook, "events": ["email.sent", "email.delivered"]})[
        "id"
    ]
    attachment = {"filename": "a.txt", "content": base64.b64encode(b"hello").decode()}
    ids["email"] = there.made("/emails", {**EMAIL, "attachments": [attachment], "tags": [{"name": "a", "value": "b"}]})[
        "id"
    ]
    ids["sent_attachment"] = first(f"/emails/{ids['email']}/attachments")
    ids["scheduled"] = there.made("/emails", {**EMAIL, "scheduled_at": "in 3 days"})["id"]
    ids["domain"] = there.made("/domains", {"name": "world.example"})["id"]
    ids["dkim_key"] = first(f"/v1/domains/{ids['domain']}/dkim-keys")
    ids["alarm"] = there.made(f"/v1/domains/{ids['domain']}/pause", {"reason": "one of everything"})["id"]
    ids["tls_report"] = told_about_tls(api, ids["domain"], "world.example")
    ids["dmarc_report"] = told_about_dmarc(api, "world.example")
    ids["way"] = there.made("/v1/ways", {"name": "w", "kind": "resend", "settings": {"api_key": "re_x"}})["id"]
    ids["route"] = there.made("/v1/routes-out", {"ways": ["default"], "tag": {"name": "never"}})["id"]
    hold = {"name": "h", "match": {"recipient": "held@postroom.test"}, "actions": [{"type": "quarantine"}]}
    ids["inbound_route"] = there.made("/v1/routes", hold)["id"]
    ids["api_key"] = there.made("/api-keys", {"name": "one of everything"})["id"]
    ids["suppression"] = there.made("/suppressions", {"email": "never@example.com"})["id"]
    ids["received"], ids["attachment"] = _receive(there)
    ids["event"] = first(f"/webhooks/{ids['webhook']}/events")
    ids["log"] = first("/logs?limit=1")
    ids["message"] = first("/v1/messages")
    ids["thread"] = first("/v1/threads")
    ids["mailbox"] = first("/v1/mailboxes")
    ids["address"] = there.made("/v1/addresses", {"address": "no@postroom.test", "kind": "reject"})["id"]
    ids["blocked_sender"] = there.made("/v1/blocked-senders", {"sender": "never@example.com"})["id"]
    ids["caught"] = first("/v1/caught")
    wait_for(lambda: api.get(f"/webhooks/{ids['webhook']}/events/{ids['event']}/attempts").json()["data"], "an attempt")


def told_about_tls(api: httpx.Client, domain: str, name: str) -> str:
    """Somebody reports about TLS with that domain's mail host; the report's id."""
    record = api.get(f"/v1/domains/{domain}/tls").json()["records"][0]["value"]
    yesterday = datetime.now(UTC).date() - timedelta(days=1)  # one that is too old is deleted soon
    report = {
        "report-id": "1",
        "date-range": {"start-datetime": f"{yesterday}T00:00:00Z", "end-datetime": f"{yesterday}T23:59:59Z"},
        "policies": [{"policy": {"policy-type": "sts", "policy-domain": name}}],
    }
    path = "/v1/tls/intake/" + record.rpartition("/")[2]
    answer = api.post(path, content=json.dumps(report), headers={"content-type": "application/tlsrpt+json"})
    assert answer.status_code == 201, answer.text
    return str(api.get("/v1/tls/reports").json()["data"][0]["id"])


def told_about_dmarc(api: httpx.Client, name: str, report_id: str = "1") -> str:
    """A report about mail in the name of that domain; its id."""
    answer = api.post("/v1/dmarc/reports", json={"content": dmarc_report(name, report_id)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def dmarc_report(name: str, report_id: str) -> str:
    """In base64."""
    begin = int(time.time()) - 100_000  # one that is too old is deleted soon
    xml = (
        f"<feedback><report_metadata><org_name>o</org_name><email>a@b.example</email><report_id>{report_id}</report_id>"
        f"<date_range><begin>{begin}</begin><end>{begin + 86_399}</end></date_range></report_metadata>"
        f"<policy_published><domain>{name}</domain><p>none</p></policy_published><record><row><source_ip>192.0.2.1</source_ip>"
        "<count>1</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated>"
        f"</row><identifiers><header_from>{name}</header_from></identifiers></record></feedback>"
    )
    return base64.b64encode(xml.encode()).decode()


def _receive(there: World) -> tuple[str, str]:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.com>", "t@postroom.test", "in"
    mail["Message-ID"] = "<world@example.com>"
    mail.set_content("hello")
    mail.add_alternative('<p>hello <img src="cid:pixel"></p>', subtype="html")
    mail.add_attachment(PIXEL, "image", "gif", filename="p.gif", cid="<pixel>", disposition="inline")
    host, port = there.stack.dev["mx"].split(":")
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        smtp.send_message(mail)
    received = wait_for(lambda: there.api.get("/emails/receiving").json()["data"], "the mail is routed")[0]["id"]
    return received, there.api.get(f"/emails/receiving/{received}/attachments").json()["data"][0]["id"]
