"""The program that composes and signs, in a process of its own: `python -m outbound.signing FORMAT LEVEL`.

`outbound.signers` starts it. Standard input is a socket: a list of Work comes in, a list of Composed goes out, pickled, until the
other end is closed; the first octet that goes out is READY. It knows no settings, no database and no network: what it needs comes
with the work, the keys too.
"""

from __future__ import annotations

import gc
import pickle
import signal
import socket
import sys

from mailcore.kit.log import configure
from outbound.composer import compose_these

READY = b"!"
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
    with socket.socket(fileno=0) as parent, parent.makefile("rb") as asked:
        parent.sendall(READY)
        while asked.peek(1):
            work = pickle.load(asked)  # noqa: S301 - from our own parent
            signal.alarm(SECONDS)
            composed = pickle.dumps(compose_these(work), pickle.HIGHEST_PROTOCOL)
            signal.alarm(0)
            try:
                parent.sendall(composed)
            except OSError:
                return


if __name__ == "__main__":
    main()
