"""`svix`, `standardwebhooks` and `resend`, from PyPI and from npm, verify what a running stack posts; received mail is forwarded
and answered by the newest Node client."""

from __future__ import annotations

import json
import os
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
import pytest
import resend
import standardwebhooks
import svix

import suites
from peers import peer
from stack import Stack, wait_for

SOURCE = Path(__file__).parent / "webhooks-npm"
CACHE = SOURCE.parents[2] / ".cache" / "webhooks-npm"
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
            kept.posts.append({"headers": {name.lower(): value for name, value in self.headers.items()}, "body": body})
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
    env = {"POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0", "POSTROOM_IMAP_SYNC__PROCESSES": "0"}
    with Stack(tmp_path_factory.mktemp("webhooks") / "stack", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def posts(api: httpx.Client, endpoint: Endpoint) -> list[dict[str, Any]]:
    """Posts of a webhook whose secret has just been rotated: `{secrets, headers, body}`, the newest secret first."""
    made = api.post("/webhooks", json={"endpoint": endpoint.url, "events": ["email.sent", "email.delivered"]}).json()
    new = api.post(f"/webhooks/{made['id']}/signing-secret/rotate").json()["signing_secret"]
    email = {"from": "a@postroom.test", "to": "hooks@example.com", "subject": "Grüße 🎉 </script>", "text": "t"}
    assert api.post("/emails", json=email).status_code == 200
    wait_for(lambda: len(endpoint.posts) == 2, "two posts")
    return [{"secrets": [new, made["signing_secret"]], **post} for post in endpoint.posts]


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


def test_received_mail_is_forwarded_and_answered(stack: Stack, api: httpx.Client) -> None:
    # one that is not 7-bit could only be attached as a file (RFC 2046 §5.2.1)
    mail = EmailMessage(policy=policy.SMTP.clone(cte_type="7bit"))
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.com>", "t@postroom.test", "Frage: größer?"
    mail["Message-ID"], mail["Reply-To"] = "<first@example.com>", "replies@example.com"
    mail.set_content("Grüße")
    mail.add_alternative('<p>Grüße <img src="cid:pixel"></p>', subtype="html")
    mail.get_payload()[1].add_related(PIXEL, "image", "gif", filename="p.gif", cid="<pixel>", disposition="inline")
    mail.add_attachment(b"\x00\xff" * 100, "application", "octet-stream", filename="größe.bin")
    host, port = stack.dev["mx"].split(":")
    with smtplib.SMTP(host, int(port), timeout=20) as smtp:
        smtp.send_message(mail)
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
        done = subprocess.run(argv, cwd=CACHE, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [node, script, *arguments],
        cwd=CACHE,
        env={"PATH": os.environ["PATH"], **(env or {})},
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told
