"""Proof of where mail comes from: signatures made and verified, policies read.

dkim  RFC 6376, RFC 8301, RFC 8463
arc   RFC 8617
spf   RFC 7208: the lookups that a record costs
"""
