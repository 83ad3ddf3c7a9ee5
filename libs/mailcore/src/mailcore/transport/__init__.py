"""Mail over SMTP to a next hop, without database: sessions, pipelined exchange, pool (RFC 5321, 2920, 3030, 3207, 4954).

The caller fills a MailQueue and gets one Outcome a mail:

1. `base`      what is handed in (Mail, Hop, Destination, Timeouts) and the seam `Transport`; `memory` is its stand-in
2. `pool`      connections a (source, site, TLS policy), kept warm between calls (`connections`); `route` walks the hops
3. `session`   one connection until it can take mail: greeting, EHLO, STARTTLS, AUTH
   `tls`       what its TLS must come to, and whether it did: DANE, MTA-STS (RFC 7672, RFC 8461)
4. `exchange`  MAIL, RCPT, DATA, content and final dot, or BDAT: pipelined, or in lock-step where the peer offers no PIPELINING
   `transaction` one mail of it: how far it has come, and what was said about it
   `envelope`  MAIL and RCPT as this peer takes them: SIZE, 8BITMIME, SMTPUTF8, DSN, REQUIRETLS; or why it cannot take the mail
   `leave`     the caller's yes to a final dot
5. `content`   checks line ends, stuffs dots or cuts chunks: no bare CR or LF ever leaves
6. `wire`      the asyncio protocol: replies under limits, one deadline, flow control
7. `outcomes`  a peer's words, or a broken connection, as an Outcome

Why not a ready client: docs/adr/0002-own-smtp-client.md.
"""

from mailcore.transport.base import (
    BeforeDot,
    Credentials,
    Destination,
    Hop,
    Mail,
    OnOutcome,
    Timeouts,
    TlsPolicy,
    Transport,
)
from mailcore.transport.mail_queue import MailQueue
from mailcore.transport.pool import Pool

__all__ = [
    "BeforeDot",
    "Credentials",
    "Destination",
    "Hop",
    "Mail",
    "MailQueue",
    "OnOutcome",
    "Pool",
    "Timeouts",
    "TlsPolicy",
    "Transport",
]
