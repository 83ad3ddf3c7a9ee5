"""Reads one large mail in a process of its own: `python -m mailcore.mime.child summary|content|attachment ARG`.

Raw mail on standard input, JSON on standard output (of an attachment: one line of JSON, then its content). The process holds
itself to ten seconds of processor and 512 MB beyond the mail, so that a mail made to exhaust its reader ends only that.
"""

from __future__ import annotations

import json
import resource
import sys

from mailcore.mime.parse import Message, content_as_json

CPU_SECONDS = 10
MEMORY_BYTES = 512 * 1024 * 1024


def main(what: str, argument: str) -> None:
    raw = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    memory = MEMORY_BYTES + 4 * len(raw)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    message = Message(raw)
    out = sys.stdout.buffer
    if what == "summary":
        out.write(json.dumps(message.summary().as_json()).encode())
    elif what == "content":
        out.write(json.dumps(content_as_json(message, argument)).encode())
    else:
        found = message.attachment(int(argument))
        if found is not None:
            out.write(
                json.dumps(found[0].filename).encode() + b"\n" + found[0].content_type.encode() + b"\n" + found[1]
            )
    out.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
