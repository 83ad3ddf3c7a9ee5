"""Submission (RFC 6409): organizations hand in whole messages, with an API key as password, by the same rules as by the API.

listener.py   what its connections share; the commands it knows
session.py    whom a connection speaks for; what its message comes to
auth.py       AUTH PLAIN and LOGIN (RFC 4954, RFC 4616), only within TLS (RFC 8314)
failures.py   failed logins by address
mail.py       MAIL and RCPT: only after AUTH; the envelope's sender is anybody, its recipients are anywhere
options.py    Resend-* fields

The message itself: mailcore.mime.submission. The door: mailcore.flow.submit.
"""
