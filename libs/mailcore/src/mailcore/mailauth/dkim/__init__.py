"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463).

canonical  header fields and bodies in their simple and relaxed forms, in linear time
keys       signing keys: make, load, publish
sign       the DKIM-Signature fields for a message

All of it takes bytes and gives bytes. Signing is OpenSSL's work and frees the interpreter: callers run it in a thread.
"""
