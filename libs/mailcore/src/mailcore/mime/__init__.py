"""Messages as bytes (RFC 5322, RFC 2045 to 2047, RFC 2231).

headers    what a caller may set, and header fields as 7-bit lines
compose    a message from its parts: 7-bit, CRLF, a pure function of its argument
plaintext  plain text out of HTML, for the mail that came without
"""
