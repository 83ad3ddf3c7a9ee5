"""Messages as bytes (RFC 5322, RFC 2045 to 2047, RFC 2231).

headers    what a caller may set, and header fields as 7-bit lines
compose    a message from its parts: 7-bit, CRLF, a pure function of its argument
parse      strangers' mail, under limits
rewrite    a raw message changed leaf by leaf, and its 7-bit form
submission a message handed in whole: what it says, and the form in which it is signed and sent
plaintext  plain text out of HTML, for the mail that came without
"""
