"""Mail that comes in by SMTP: from the world (MX) and from organizations (submission); and the runner that routes
what has arrived, whatever door it came by.

connection.py octets come, replies go: reading, waiting, TLS, time; no mail
session.py    the conversation: commands and messages (RFC 5321)
wire.py       command lines out of octets; what all connections may hold together
body.py       a message on its way in: in memory, or in a file; DATA and BDAT
tls.py        TLS inside a session, and the certificate; proxy.py: the PROXY header before it
listener.py   what the connections of a port share, and their clock
mx.py         the MX: for domains that receive here
recipients.py whose mail it is, remembered for a few seconds; counts.py: what strangers do, counted
submission/   587 and 465: AUTH with an API key, messages handed in whole
verbs/        what each command does, a file a step of a transaction
checks/       what is refused, and why: paths, relaying, content, clients
replies.py    every reply's wire form; the one place where MailError becomes SMTP
router.py     claims arrivals and routes them (mailcore.flow.route); pace.py: when

RFC 5321 SMTP, 1870 SIZE, 2920 PIPELINING, 2034 and 3463 enhanced codes, 3207 STARTTLS, 6152 8BITMIME, 6531 SMTPUTF8, 3461 DSN,
3030 CHUNKING.
RFC 6409 submission, 4954 AUTH, 8314 TLS.
"""
