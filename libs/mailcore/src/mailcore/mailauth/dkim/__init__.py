"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463).

canonical  header fields and bodies in their simple and relaxed forms, in linear time
tags       `name=value; …`, which signatures and key records are written in
keys       signing keys: make, load, import, publish
record     public keys: read, and found in the DNS
sign       the DKIM-Signature fields for a message
signature  a signature as it stands in a field, and what it is one of
verify     the signatures of a message

All of it takes bytes and gives bytes; verify and record ask the DNS they are given. Signing is OpenSSL's work and frees the
interpreter: callers run it in a thread.
"""
