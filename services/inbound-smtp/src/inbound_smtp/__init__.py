"""Mail that comes in by SMTP: from the world (MX) and from organizations (submission); and the runner that routes
what has arrived, whatever door it came by.

session.py    a connection from greeting to QUIT: its limits, its command loop (RFC 5321, on aiosmtpd)
wire.py       lines and message data out of the bytes of a connection
listener.py   what the connections of a port share
proxied.py    PROXY before TLS from the first octet
mx.py         the MX: for domains that receive here
submission/   587 and 465: AUTH with an API key, messages handed in whole
verbs/        what each command does, a file a step of a transaction
checks/       what is refused, and why: paths, relaying, content
replies.py    every reply's wire form; the one place where MailError becomes SMTP
router.py     claims arrivals and routes them (mailcore.flow.route)

RFC 5321 SMTP, 1870 SIZE, 2920 PIPELINING, 2034 and 3463 enhanced codes, 3207 STARTTLS, 6152 8BITMIME, 6531 SMTPUTF8.
RFC 6409 submission, 4954 AUTH, 8314 TLS.
"""
