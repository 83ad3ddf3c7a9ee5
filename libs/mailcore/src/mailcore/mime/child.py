"""Reads one large mail in a process of its own: `python -m mailcore.mime.child summary|content|view|attachment|submission ARG`.

Raw mail on standard input, JSON on standard output (of an attachment and of a submission: JSON in a line, then the octets). The
process holds itself to ten seconds of processor and 512 MB beyond the mail, so that a mail made to exhaust its reader ends
only that.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from uuid import UUID

from mailcore.kit.errors import MailError
from mailcore.mime.parse import Message, content_as_json
from mailcore.mime.submission import prepare
from mailcore.mime.view import REMOTE, view

CPU_SECONDS = 10
MEMORY_BYTES = 512 * 1024 * 1024


def main(what: str, argument: str) -> None:
    raw = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    memory = MEMORY_BYTES + 4 * len(raw)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    out = sys.stdout.buffer
    if what == "submission":
        out.write(submission(raw, argument))
        out.flush()
        return
    message = Message(raw)
    if what == "summary":
        out.write(json.dumps(message.summary().as_json()).encode())
    elif what == "content":
        out.write(json.dumps(content_as_json(message, argument)).encode())
    elif what == "view":
        out.write(
            json.dumps(
                view(message, argument.removesuffix(REMOTE), remote=argument.endswith(REMOTE)).as_json()
            ).encode()
        )
    else:
        found = message.attachment(int(argument))
        if found is not None:
            out.write(
                json.dumps(found[0].filename).encode() + b"\n" + found[0].content_type.encode() + b"\n" + found[1]
            )
    out.flush()


def submission(raw: bytes, argument: str) -> bytes:
    asked = json.loads(argument)
    try:
        done = prepare(
            raw,
            id_=UUID(asked["id"]),
            by=asked["by"],
            protocol=asked["protocol"],
            now=datetime.fromisoformat(asked["now"]),
        )
    except MailError as error:
        return json.dumps({"refused": error.public, "code": error.code, "enhanced": error.enhanced}).encode() + b"\n"
    return json.dumps(done.as_json()).encode() + b"\n" + done.raw


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
