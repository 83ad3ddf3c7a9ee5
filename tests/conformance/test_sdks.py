"""The official clients, unchanged but for the base URL, against a running stack; the mail they send, as it arrived.

`resend` from PyPI is a development dependency; `resend` from npm is installed here from its lock file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import dkim
import dns.message
import dns.query
import dns.rdatatype
import httpx
import pytest

from conformance.world import World
from peers import peer
from stack import Stack, wait_for

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "resend-npm"


@pytest.fixture(scope="module")
def stack(there: World) -> Stack:
    return there.stack


def _environment(stack: Stack, **more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("POSTROOM_", "RESEND_"))}
    return {**own, **more, "RESEND_API_KEY": stack.dev["api_key"]}


def _run(argv: list[str], env: dict[str, str], cwd: Path) -> dict[str, Any]:
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def _caught(stack: Stack, to: str) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    answer = httpx.get(f"{stack.dev['api_url']}/v1/caught", params={"to": to}, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def _raw(stack: Stack, id_: str) -> bytes:
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    return httpx.get(f"{stack.dev['api_url']}/v1/caught/{id_}/raw", headers=headers, timeout=60).content


def _txt(stack: Stack, name: str) -> bytes:
    host, _, port = stack.dev["dns"].rpartition(":")
    answer = dns.query.udp_with_fallback(dns.message.make_query(name, "TXT"), host, port=int(port), timeout=60)[0]
    for found in answer.answer:
        if found.rdtype == dns.rdatatype.TXT:
            return b"".join(found[0].strings)
    return b""


def _assert_signed(stack: Stack, raw: bytes) -> None:
    """Signed by RSA and Ed25519; dkimpy verifies both with the keys that the stack's DNS publishes."""
    asked: list[str] = []

    def txt(name: bytes | str, timeout: int = 5) -> bytes:
        asked.append((name.decode() if isinstance(name, bytes) else name).rstrip("."))
        return _txt(stack, asked[-1])

    algorithms = re.findall(rb"^dkim-signature:.*?\ba=([a-z0-9-]+)", raw.partition(b"\r\n\r\n")[0], re.I | re.M | re.S)
    assert sorted(algorithms) == [b"ed25519-sha256", b"rsa-sha256"]
    for idx in range(2):
        assert dkim.DKIM(raw).verify(idx=idx, dnsfunc=txt), algorithms[idx]
    assert [name.partition("._domainkey.")[2] for name in asked] == ["postroom.test"] * 2


def _assert_journey(stack: Stack, told: dict[str, Any], client: str) -> None:
    """What both scripts did: one mail with everything, a batch of two, get, list, and one that is refused."""
    to = f"{client}-one@example.com"
    mail = wait_for(lambda: next(iter(_caught(stack, to)), None), f"mail to {to}")
    raw = _raw(stack, mail["id"])
    _assert_signed(stack, raw)
    read = BytesParser(policy=policy.default).parsebytes(raw)
    assert read["from"].addresses[0].addr_spec == "hello@postroom.test"
    assert read["subject"] == f"Grüße from {client}"
    assert read["x-entity-ref-id"] == "42"
    html = read.get_body(("html",))
    assert html is not None
    assert "<p>Hello</p>" in html.get_content()
    assert [(part.get_filename(), part.get_content()) for part in read.iter_attachments()] == [("note.txt", "hi there")]
    assert read["message-id"] == told["got"]["message_id"]
    assert (told["got"]["id"], told["got"]["to"]) == (told["sent"], [to])
    assert told["again"] == told["sent"], "the same idempotency key sends once"
    for n in (1, 2):
        wait_for(lambda n=n: _caught(stack, f"{client}-batch{n}@example.com"), f"batch mail {n}")
    assert len(_caught(stack, to)) == 1
    assert set(told["batch"]) <= set(told["listed"])
    assert told["sent"] in told["listed"]
    assert told["refused"] == "Invalid `to` field. The email address needs to follow the `email@example.com` or " + (
        "`Name <email@example.com>` format."
    )
    assert told["domain"]["name"] == f"{client}.example"
    assert {record["record"] for record in told["domain"]["records"]} == {"SPF", "DKIM"}
    assert told["key_deleted"] is True


def test_resend_from_pypi(stack: Stack, tmp_path: Path) -> None:
    told = _run(
        [sys.executable, str(HERE / "resend_client.py")],
        _environment(stack, RESEND_API_URL=stack.dev["api_url"]),
        tmp_path,
    )
    _assert_journey(stack, told, "python")


def test_resend_from_npm(stack: Stack) -> None:
    npm, node = peer("npm"), peer("node")
    source = HERE / "resend-npm"
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(source / name, CACHE / name)
    if not (CACHE / "node_modules" / "resend").exists():
        done = subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=CACHE,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    told = _run([node, "client.mjs"], _environment(stack, RESEND_BASE_URL=stack.dev["api_url"]), CACHE)
    _assert_journey(stack, told, "node")


def test_too_large_a_body_over_a_real_connection(stack: Stack) -> None:
    """The answer comes before the body is read, in the usual shape, and the server goes on."""
    headers = {"authorization": f"Bearer {stack.dev['api_key']}", "content-type": "application/json"}
    answer = httpx.post(f"{stack.dev['api_url']}/emails", headers=headers, content=b"x" * 70_000_000, timeout=60)
    assert (answer.status_code, answer.json()["name"]) == (413, "validation_error")
    assert httpx.get(f"{stack.dev['api_url']}/emails", headers=headers, timeout=60).status_code == 200
