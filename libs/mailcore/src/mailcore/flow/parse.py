"""Reading raw mail without holding up the process: at once when it is small, in a thread, or in a process of its own.

A mail that its reader cannot bear (deadline, processor, memory) is not tried for ever: it gets the summary of its header alone,
with a defect that says so, and its raw form can still be downloaded.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from mailcore.blob.base import BlobStore
from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.log import logger
from mailcore.mime.parse import Message, Summary, content_as_json
from mailcore.mime.submission import Submission, prepare
from mailcore.mime.view import REMOTE, View, view

log = logger(__name__)

AT_ONCE = 64 * 1024
IN_A_THREAD = 1024 * 1024
DEADLINE_SECONDS = 30.0
_HEADER_BYTES = 110_000


@dataclass(frozen=True, slots=True)
class File:
    filename: str | None
    content_type: str
    content: bytes


async def raw_of(blobs: BlobStore, raw: bytes | None, raw_blob: str | None) -> bytes:
    """Of a row that holds either. Raises NotFound, Unavailable."""
    if raw is not None:
        return raw
    return await blobs.get(raw_blob or "")


class Reader:
    """One a process."""

    def __init__(self, *, children: int = 2) -> None:
        """`children`: how many large mails are read at once."""
        self._children = asyncio.Semaphore(children)

    async def summary(self, raw: bytes) -> Summary:
        """Never raises for what the mail holds. Raises Unavailable when no process can be started."""
        if len(raw) <= AT_ONCE:
            return Message(raw).summary()
        if len(raw) <= IN_A_THREAD:
            return await asyncio.to_thread(lambda: Message(raw).summary())
        try:
            return Summary.from_json(orjson.loads(await self._child(raw, "summary", "")))
        except Refused as error:
            found = Message(raw[:_HEADER_BYTES]).summary()
            found.attachments = []
            found.defects = [error.public]
            return found

    async def content(self, raw: bytes, html_format: str) -> dict[str, Any]:
        """`{"html", "text", "headers"}`; `html_format` is `data_uri` (images of the mail stand in its HTML) or `cid`.

        Raises Refused when the mail cannot be read within the limits, Unavailable.
        """
        if len(raw) <= IN_A_THREAD:
            return await asyncio.to_thread(lambda: content_as_json(Message(raw), html_format))
        found: dict[str, Any] = orjson.loads(await self._child(raw, "content", html_format))
        return found

    async def view(self, raw: bytes, inline: str, *, remote: bool = False) -> View:
        """The mail as it may be shown; `inline` and `remote` as for mime.view. Raises as `content`."""
        if len(raw) <= IN_A_THREAD // 4:  # HTML is cleaned in one go
            return await asyncio.to_thread(lambda: view(Message(raw), inline, remote=remote))
        return View(**orjson.loads(await self._child(raw, "view", inline + (REMOTE if remote else ""))))

    async def attachment(self, raw: bytes, n: int) -> File | None:
        """Number `n`, decoded; None: there is no such attachment. Raises as `content`."""
        if len(raw) <= IN_A_THREAD:
            found = await asyncio.to_thread(lambda: Message(raw).attachment(n))
            return None if found is None else File(found[0].filename, found[0].content_type, found[1])
        out = await self._child(raw, "attachment", str(n))
        if not out:
            return None
        name, _, rest = out.partition(b"\n")
        kind, _, body = rest.partition(b"\n")
        return File(orjson.loads(name), kind.decode(), body)

    async def submission(self, raw: bytes, *, id_: UUID, by: str, protocol: str, now: datetime) -> Submission:
        """As mime.submission.prepare. Raises Refused; Unavailable, also when the mail was not read within the limits: perhaps it
        was our load, and the sender keeps it."""
        if len(raw) <= AT_ONCE // 4:  # it is read and written, too
            return prepare(raw, id_=id_, by=by, protocol=protocol, now=now)
        if len(raw) <= IN_A_THREAD:
            return await asyncio.to_thread(prepare, raw, id_=id_, by=by, protocol=protocol, now=now)
        asked = {"id": id_, "by": by, "protocol": protocol, "now": now}
        try:
            line, _, done = (await self._child(raw, "submission", orjson.dumps(asked).decode())).partition(b"\n")
        except Refused as error:
            raise Unavailable(
                "Reading the message took more time or memory than it may take. Try again later."
            ) from error
        told = orjson.loads(line)
        if "refused" in told:
            raise Refused(told["refused"], code=told["code"], enhanced=told["enhanced"])
        return Submission(raw=done, **told)

    async def _child(self, raw: bytes, what: str, argument: str) -> bytes:
        async with self._children:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "mailcore.mime.child", what, argument),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env={"PYTHONPATH": ":".join(filter(None, sys.path))},
                )
            except OSError as error:
                raise Unavailable("The mail cannot be read just now. Try again in a moment.") from error
            try:
                async with asyncio.timeout(DEADLINE_SECONDS):
                    out, _ = await process.communicate(raw)
            except TimeoutError:
                out = b""
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0:
            log.warning("a large mail could not be read", size=len(raw), what=what, returncode=process.returncode)
            raise Refused("The body was not read: reading it took more time or memory than a mail may take.")
        return out
