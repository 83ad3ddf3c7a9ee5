"""`svix`, `standardwebhooks` and `resend`, from PyPI and from npm, verify what a running stack posts; received mail is forwarded
and answered by the newest Node client."""

from __future__ import annotations

import json
import os
import re
import shutil
import smtplib
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import resend
import standardwebhooks
import svix

import suites
from peers import peer
from stack import Stack, wait_for

SOURCE = Path(__file__).parent / "webhooks-npm"
CACHE = SOURCE.parents[2] / ".cache" / "webhooks-npm"
HTML = '<p>Hello <a href="https://shop.example/p?a=1&amp;b=2">our shop</a></p>'
PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c000000000100010000020144003b")


@dataclass
class Endpoint:
    """An HTTP server on loopback that keeps what is posted."""

    url: str
    posts: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            kept.posts.append(
                {
                    "path": self.path,
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                    "body": body,
                }
            )
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    kept = Endpoint(f"http://127.0.0.1:{server.server_port}/hook")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kept
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    env = {
        "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",
        "POSTROOM_IMAP_SYNC__PROCESSES": "0",
        "POSTROOM_OUTBOUND__DELAY_NOTICE_SECONDS": "0",  # a delay is told at once
    }
    with Stack(tmp_path_factory.mktemp("webhooks") / "stack", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def posts(api: httpx.Client, endpoint: Endpoint) -> list[dict[str, Any]]:
    """Posts of a webhook whose secret has just been rotated: `{secrets, headers, body}`, the newest secret first."""
    made = api.post("/webhooks", json={"endpoint": endpoint.url, "events": ["email.sent", "email.delivered"]}).json()
    new = api.post(f"/webhooks/{made['id']}/signing-secret/rotate").json()["signing_secret"]
    email = {"from": "a@postroom.test", "to": "hooks@example.com", "subject": "Grüße 🎉 </script>", "text": "t"}
    assert api.post("/emails", json=email).status_code == 200

    def both() -> list[dict[str, Any]] | None:
        """An event whose answer came too late may be there twice."""
        by_id = {post["headers"]["webhook-id"]: post for post in endpoint.posts if post["path"] == "/hook"}
        return list(by_id.values()) if len(by_id) == 2 else None

    return [{"secrets": [new, made["signing_secret"]], **post} for post in wait_for(both, "two posts")]


def test_from_pypi(posts: list[dict[str, Any]]) -> None:
    for post in posts:
        headers, body = post["headers"], post["body"]
        for secret in post["secrets"]:
            for library in (svix.Webhook, standardwebhooks.Webhook):
                library(secret).verify(body, headers)
                with pytest.raises(Exception, match=r"(?i)signature"):
                    library(secret).verify(body.replace("email", "e-mail"), headers)
        parts = {name: headers[f"svix-{name}"] for name in ("id", "timestamp", "signature")}
        told: Any = resend.Webhooks.verify({"payload": body, "headers": parts, "webhook_secret": post["secrets"][0]})
        assert told["data"]["subject"] == "Grüße 🎉 </script>"


def test_from_npm(posts: list[dict[str, Any]]) -> None:
    vectors = suites.vectors("webhook-signature-vectors")["sign"]
    given = {"posts": posts, "vectors": vectors}
    told = _node("verify.mjs", input=json.dumps(given))
    types = sorted(json.loads(post["body"])["type"] for post in posts)
    assert types == ["email.delivered", "email.sent"]
    assert set(told["told"]) == {"svix", "standardwebhooks", "resend"}
    for said in told["told"].values():
        assert sorted(one["good"] for one in said) == [[type_] * 2 for type_ in types]
        assert all(one["changed"].startswith("refused: ") for one in said)
    assert told["signed"] == [[vector["signature"]] * 2 for vector in vectors]


# ---- payloads --------------------------------------------------------------------------------------------------------

TEXT, TIME = {"type": "string"}, {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"}
OR_NULL = {"type": ["string", "null"]}
LIST = {"type": "array", "items": TEXT}


def _object(needed: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Nothing but `needed`, which must be there, and `more`, which may."""
    names = {"properties": needed | more, "required": list(needed), "additionalProperties": False}
    return {"type": "object", **names}


_EMAIL = {
    **{"email_id": TEXT, "created_at": TIME, "message_id": TEXT, "from": TEXT, "to": LIST, "subject": TEXT},
    "tags": {"type": "object", "additionalProperties": TEXT},
}
_DOMAIN = {"id": TEXT, "name": TEXT, "status": TEXT, "created_at": TEXT, "region": TEXT, "records": {"type": "array"}}
_DOMAIN_TOO = {"capabilities": {"type": "object"}, "tracking_subdomain": OR_NULL} | {
    f"{name}_tracking": {"type": "boolean"} for name in ("open", "click")
}
_BOUNCE = _object(
    {
        "type": {"enum": ["Permanent", "Transient", "Undetermined"]},
        "subType": TEXT,
        "message": TEXT,
        "diagnosticCode": LIST,
    }
)
_CLICK = {"ipAddress": TEXT, "timestamp": TIME, "userAgent": TEXT}
_SUPPRESSED = _object(
    {"type": {"enum": ["Suppressed", "OnAccountSuppressionList"]}, "message": TEXT, "diagnosticCode": LIST},
    reason={"enum": ["previous_bounce", "previous_complaint"]},
)
_FILE = {"id": TEXT, "filename": OR_NULL, "content_type": TEXT, "content_disposition": TEXT, "content_id": OR_NULL}
_SUPPRESSION = {"id": TEXT, "email": TEXT, "origin": TEXT, "source_id": OR_NULL, "created_at": TIME}
_DKIM_KEYS = {"type": "array", "items": _object({"selector": TEXT, "algorithm": TEXT, "state": TEXT}), "minItems": 1}
SHAPES: dict[str, dict[str, Any]] = {
    **{
        f"email.{name}": _object(_EMAIL)
        for name in ("sent", "scheduled", "delivered", "delivery_delayed", "complained")
    },
    "email.opened": _object(_EMAIL, open=_object(_CLICK, proxy=TEXT, scanner={"const": True})),
    "email.clicked": _object(_EMAIL | {"click": _object(_CLICK | {"link": TEXT}, proxy=TEXT, scanner={"const": True})}),
    "email.bounced": _object(_EMAIL | {"bounce": _BOUNCE}),
    "email.suppressed": _object(_EMAIL | {"suppressed": _SUPPRESSED}),
    "email.received": _object(
        {
            **{"email_id": TEXT, "created_at": TIME, "from": TEXT, "to": LIST, "bcc": LIST, "cc": LIST},
            **{"received_for": LIST, "message_id": TEXT, "subject": TEXT},
            "attachments": {"type": "array", "items": _object(_FILE), "minItems": 1},
        }
    ),
    **{
        f"domain.{name}": _object(_DOMAIN, **_DOMAIN_TOO, dkim_keys=_DKIM_KEYS)
        for name in ("created", "updated", "deleted")
    },
    **{f"suppression.{name}": _object(_SUPPRESSION) for name in ("added", "removed")},
}
"""Type → its `data` (resend.md §10.4, and the types of the Node client). Ours besides: `open`, `proxy`, `scanner`, `dkim_keys`."""


def test_every_type_of_the_sending_half_has_its_payload(stack: Stack, api: httpx.Client, endpoint: Endpoint) -> None:
    """email.failed alone is not made here: nothing in a stack of this kind fails for good without a bounce."""
    made = api.post("/webhooks", json={"endpoint": endpoint.url + "/types", "events": ["*"]})
    assert made.status_code == 201

    def send(to: str, **more: Any) -> None:
        mail = {
            "from": "a@postroom.test",
            "to": to,
            "subject": "s",
            "html": HTML,
            "tags": [{"name": "k", "value": "v"}],
        }
        answer = api.post("/emails", json=mail | more)
        assert answer.status_code == 200, answer.text

    [domain] = [one["id"] for one in api.get("/domains").json()["data"] if one["name"] == "postroom.test"]
    assert api.patch(f"/domains/{domain}", json={"open_tracking": True, "click_tracking": True}).status_code == 200
    send("reader@example.com")
    for name in ("delivered", "bounced", "complained", "suppressed"):
        send(f"{name}@resend.dev")
    send("450-later@example.com")
    send("later@example.com", scheduled_at="in 2 hours")
    assert api.post("/suppressions", json={"email": "gone@example.com"}).status_code < 300
    assert api.delete("/suppressions/gone@example.com").status_code == 200
    new = api.post("/domains", json={"name": "types.example"}).json()["id"]
    assert api.delete(f"/domains/{new}").status_code == 200
    _receive(stack)
    html = _arrived(stack, "reader@example.com").get_body(("html",))
    assert html is not None
    for url in re.findall(r'(?:src|href)="([^"]*/track/[^"]*)"', html.get_content()):
        httpx.get(
            url,
            headers={"user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"},
            timeout=60,
        )

    def posts() -> dict[str, dict[str, Any]]:
        bodies = [json.loads(post["body"]) for post in endpoint.posts if post["path"].endswith("/types")]
        return {body["type"]: body for body in bodies}

    wait_for(lambda: set(SHAPES) <= set(posts()), "every type")
    for type_, body in posts().items():
        jsonschema.validate(body, _object({"type": TEXT, "created_at": TIME, "data": SHAPES[type_]}))


# ---- receiving -------------------------------------------------------------------------------------------------------


def test_received_mail_is_forwarded_and_answered(stack: Stack, api: httpx.Client) -> None:
    _receive(stack)
    received = wait_for(lambda: api.get("/emails/receiving").json()["data"], "the mail is routed")[0]["id"]
    env = {"RESEND_API_KEY": stack.dev["api_key"], "RESEND_BASE_URL": stack.dev["api_url"]}
    told = _node("forward.mjs", received, env=env)
    assert "data:image/gif;base64," in told["email"]["html"]
    assert "cid:pixel" in told["asCid"]

    passed = _arrived(stack, "passed@example.com")
    assert passed["subject"] == "Frage: größer?"
    html = passed.get_body(("html",))
    assert html is not None
    assert 'src="cid:pixel"' in html.get_content()
    files = {part.get_filename(): part for part in passed.walk() if part.get_filename()}
    assert set(files) == {"p.gif", "größe.bin"}
    assert files["p.gif"].get_content() == PIXEL
    assert files["p.gif"]["content-id"] == "<pixel>"
    assert files["größe.bin"].get_content() == b"\x00\xff" * 100

    wrapped = _arrived(stack, "wrapped@example.com")
    assert wrapped["subject"] == "Fwd: Frage: größer?"
    [eml] = [part for part in wrapped.walk() if part.get_filename() == "forwarded_message.eml"]
    assert eml.get_content_type() == "message/rfc822"
    assert eml.get_content()["message-id"] == "<first@example.com>"

    replied = _arrived(stack, "replies@example.com")
    assert (replied["in-reply-to"], replied["references"]) == ("<first@example.com>", "<first@example.com>")
    assert replied["subject"] == "Re: Frage: größer?"


def _receive(stack: Stack) -> None:
    # one that is not 7-bit could only be attached as a file (RFC 2046 §5.2.1)
    mail = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.com>", "t@postroom.test", "Frage: größer?"
    mail["Message-ID"], mail["Reply-To"] = "<first@example.com>", "replies@example.com"
    mail.set_content("Grüße")
    mail.add_alternative('<p>Grüße <img src="cid:pixel"></p>', subtype="html")
    mail.get_payload()[1].add_related(PIXEL, "image", "gif", filename="p.gif", cid="<pixel>", disposition="inline")
    mail.add_attachment(b"\x00\xff" * 100, "application", "octet-stream", filename="größe.bin")
    host, port = stack.dev["mx"].split(":")
    with smtplib.SMTP(host, int(port), timeout=60) as smtp:
        smtp.send_message(mail)


def _arrived(stack: Stack, to: str) -> EmailMessage:
    mail = wait_for(lambda: next(iter(stack.caught(to=to)), None), f"mail to {to}")
    read = BytesParser(policy=policy.default).parsebytes(stack.raw(mail))
    assert isinstance(read, EmailMessage)
    return read


def _node(script: str, *arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    npm, node = peer("npm"), peer("node")
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "verify.mjs", "forward.mjs"):
        shutil.copy(SOURCE / name, CACHE / name)
    if not (CACHE / "node_modules" / "svix").exists():
        argv = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(argv, cwd=CACHE, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [node, script, *arguments],
        cwd=CACHE,
        env={"PATH": os.environ["PATH"], **(env or {})},
        input=input,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told
