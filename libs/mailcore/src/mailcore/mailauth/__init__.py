"""Proof of where mail comes from: signatures made and verified, policies read.

dkim  RFC 6376, RFC 8301, RFC 8463
"""
