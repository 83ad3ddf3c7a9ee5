"""Addresses that an organization sends nothing to (resend.md §8.7)."""
