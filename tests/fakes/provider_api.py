"""Doubles of the providers' sending APIs on loopback: they check a request as the documentation says and answer from its examples.

    async with ProviderApi("resend") as api:
        api.answer("rate")              # the next request gets that fixture's answer
        api.cut()                       # … or its connection is cut once it has been heard
        api.status(503)                 # … or just that status
        …
        api.accepted                    # what was taken

A request that the vendor would not understand gets 400 and stands in `faults`, which must be empty at the end.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import deque
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

from fakes.provider_posts import SETTINGS, fixture


@dataclass
class Taken:
    recipients: list[str]
    reference: str
    body: Any
    """Fields, or the whole message."""
    key: str | None = None
    """The idempotency key."""


@dataclass
class Heard:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ProviderApi:
    vendor: str
    accepted: list[Taken] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    always: str | None = None
    """A fixture's answer to whatever is not scripted."""
    url: str = ""

    async def __aenter__(self) -> ProviderApi:
        self._script: deque[Any] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert self.faults == []

    def answer(self, name: str, times: int = 1) -> None:
        self._script.extend([fixture(self.vendor, "answers")[name]] * times)

    def status(self, status: int, times: int = 1) -> None:
        self._script.extend([{"status": status, "headers": {}, "body": None}] * times)

    def cut(self, times: int = 1) -> None:
        """The request is taken, and no answer comes."""
        self._script.extend(["cut"] * times)

    # ---- HTTP -------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (heard := await self._request(reader)) is not None:
                self.heard.append(heard)
                said = self._script.popleft() if self._script else None
                if said == "cut":
                    self._take(heard)
                    return
                if said is None and self.always is not None:
                    said = fixture(self.vendor, "answers")[self.always]
                if said is None:
                    said = self._take(heard)
                body = b"" if said["body"] is None else json.dumps(said["body"]).encode()
                head = [f"HTTP/1.1 {said['status']} X", f"Content-Length: {len(body)}"]
                head += [f"{name}: {value}" for name, value in said["headers"].items()]
                writer.write("\r\n".join([*head, "", ""]).encode() + body)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _request(self, reader: asyncio.StreamReader) -> Heard | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        return Heard(method, path, headers, body)

    # ---- what each vendor documents ---------------------------------------------------------------------------------

    def _take(self, heard: Heard) -> dict[str, Any]:
        try:
            assert heard.method == "POST" and heard.headers["user-agent"]
            taken: Taken = getattr(self, f"_{self.vendor}")(heard)
        except Exception as error:
            self.faults.append(f"{heard.path}: {error!r}")
            return {"status": 400, "headers": {}, "body": {"message": repr(error)}}
        self.accepted.append(taken)
        answers = fixture(self.vendor, "answers")
        if self.vendor == "cloudflare":
            said = json.loads(json.dumps(answers["delivered"]))
            said["body"]["result"]["delivered"] = taken.recipients
            return dict(said)
        return dict(answers["accepted"])

    def _resend(self, heard: Heard) -> Taken:
        assert heard.path == "/emails" and heard.headers["authorization"] == "Bearer re_key"
        mail = json.loads(heard.body)
        assert isinstance(mail["to"], list) and mail["subject"] and (mail.get("html") or mail.get("text"))
        for tag in mail["tags"]:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,256}", tag["name"]) and re.fullmatch(
                r"[A-Za-z0-9_-]{1,256}", tag["value"]
            )
        people = [*mail["to"], *mail.get("cc", []), *mail.get("bcc", [])]
        assert len(people) <= 50
        key = heard.headers["idempotency-key"]
        assert 1 <= len(key) <= 256
        return Taken([_bare(each) for each in people], mail["tags"][0]["value"], mail, key)

    def _sendgrid(self, heard: Heard) -> Taken:
        assert heard.path == "/v3/mail/send" and heard.headers["authorization"] == "Bearer SG.key"
        mail = json.loads(heard.body)
        (one,) = mail["personalizations"]
        people = [each["email"] for kind in ("to", "cc", "bcc") for each in one.get(kind, [])]
        assert len(set(people)) == len(people) and one["to"] and mail["subject"] and mail["from"]["email"]
        assert [each["type"] for each in mail["content"]] in (
            ["text/plain"],
            ["text/html"],
            ["text/plain", "text/html"],
        )
        reserved = {"to", "from", "cc", "bcc", "subject", "reply-to", "received", "dkim-signature", "content-type"}
        assert reserved.isdisjoint(name.lower() for name in mail.get("headers", {}))
        return Taken(people, mail["custom_args"]["postroom"], mail)

    def _mailgun(self, heard: Heard) -> Taken:
        assert heard.path == "/v3/postroom.test/messages.mime"
        assert base64.b64decode(heard.headers["authorization"].removeprefix("Basic ")) == b"api:mg-key-7f3a"
        form = message_from_bytes(
            b"Content-Type: " + heard.headers["content-type"].encode() + b"\r\n\r\n" + heard.body, policy=HTTP
        )
        fields: dict[str, list[bytes]] = {}
        for part in form.get_payload():  # type: ignore[union-attr]
            name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
            start = heard.body.index(f'name="{name}"'.encode()) if name == "message" else 0
            if name == "message":
                begin = heard.body.index(b"\r\n\r\n", start) + 4
                end = heard.body.rindex(b"\r\n--")
                fields.setdefault("message", []).append(heard.body[begin:end])
            else:
                fields.setdefault(str(name), []).append(part.get_payload(decode=True).strip())  # type: ignore[union-attr]
        assert fields["o:tracking"] == [b"no"]
        people = [each.decode() for each in fields["to"]]
        return Taken(people, fields["v:postroom"][0].decode(), fields["message"][0])

    def _postmark(self, heard: Heard) -> Taken:
        assert heard.path == "/email" and heard.headers["x-postmark-server-token"] == "pm-token-7f3a"
        assert heard.headers["accept"] == "application/json"
        mail = json.loads(heard.body)
        assert mail["MessageStream"] == "outbound" and (mail.get("HtmlBody") or mail.get("TextBody"))
        people = [_bare(each) for kind in ("To", "Cc", "Bcc") for each in mail.get(kind, "").split(", ") if each]
        assert 1 <= len(people) <= 50 and all(len(value) <= 80 for value in mail["Metadata"].values())
        return Taken(people, mail["Metadata"]["postroom"], mail)

    def _ses(self, heard: Heard) -> Taken:
        assert heard.path == "/v2/email/outbound-emails"
        access = SETTINGS["ses"]["access_key_id"]
        assert heard.headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={access}/")
        assert "host;x-amz-date" in heard.headers["authorization"]
        mail = json.loads(heard.body)
        (tag,) = mail["EmailTags"]
        assert tag["Name"] == "postroom" and re.fullmatch(r"[A-Za-z0-9_.@-]{1,256}", tag["Value"])
        raw = base64.b64decode(mail["Content"]["Raw"]["Data"])
        return Taken(mail["Destination"]["ToAddresses"], tag["Value"], raw)

    def _cloudflare(self, heard: Heard) -> Taken:
        assert heard.path == f"/accounts/{SETTINGS['cloudflare']['account_id']}/email/sending/send_raw"
        assert heard.headers["authorization"] == "Bearer cf-token-7f3a"
        mail = json.loads(heard.body)
        assert "@" in mail["from"] and 1 <= len(mail["recipients"]) <= 50
        return Taken(mail["recipients"], "", mail["mime_message"].encode())


def _bare(mailbox: str) -> str:
    found = re.search(r"<([^<>]+)>", mailbox)
    return found[1] if found else mailbox
