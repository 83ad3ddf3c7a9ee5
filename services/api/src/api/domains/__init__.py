"""Domains of an organization: made with DKIM keys of their own, verified by DNS (resend.md §6)."""
