"""The program that composes and signs, in a process of its own: `python -m outbound.signing FORMAT LEVEL`.

`outbound.signers` starts it. Standard input is a socket. The first that goes out is SHAPE; then `(number, list of Work)` comes in
and `(number, list of Composed)` goes out, pickled, until the other end is closed. It knows no settings, no database and no network:
what it needs comes with the work, the keys too.
"""

from __future__ import annotations

import gc
import hashlib
import pickle
import signal
import socket
import sys

from mailcore.kit.log import configure
from mailcore.mailauth.dkim.keys import SigningKey
from mailcore.mime.compose import Part
from mailcore.smtp.outcome import Outcome
from mailcore.smtp.reply import Reply
from mailcore.store.contents import Content
from outbound.composer import Work, compose_these
from outbound.tracking import Tracker

_EXCHANGED = (Work, Content, Part, SigningKey, Tracker, Outcome, Reply)
SHAPE = hashlib.sha256(repr([(kind.__name__, kind.__match_args__) for kind in _EXCHANGED]).encode()).digest()
"""Of what is exchanged. One that was started after its files were replaced may have another, and is not used."""
SECONDS = 60
"""What a chunk may take, some five thousand times what it does take: who needs longer ends, and its mails are tried one by one."""


def main() -> None:
    format_, level = sys.argv[1:]
    configure("outbound", format=format_, level=level)
    # what ends outbound does not end this: mail in hand is still signed, then the socket is closed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    with socket.socket(fileno=0) as parent:
        try:
            _serve(parent)
        except OSError:
            return  # the other end is gone


def _serve(parent: socket.socket) -> None:
    parent.sendall(SHAPE)
    with parent.makefile("rb") as asked:
        while asked.peek(1):
            signal.alarm(SECONDS)
            number, work = pickle.load(asked)  # noqa: S301 - from our own parent
            composed = pickle.dumps((number, compose_these(work)), pickle.HIGHEST_PROTOCOL)
            signal.alarm(0)
            parent.sendall(composed)


if __name__ == "__main__":
    main()
