"""IMAP4rev1 as a client (RFC 3501, 9051): what mirroring a folder needs, and nothing that changes a mailbox.

response.py  one response: lines and literals into atoms, strings and lists, under limits
client.py    connect, TLS or STARTTLS, log in, EXAMINE, UID SEARCH, UID FETCH of headers

A folder is opened with EXAMINE and read with BODY.PEEK: nothing here sets \\Seen (ADR 0004).
"""
