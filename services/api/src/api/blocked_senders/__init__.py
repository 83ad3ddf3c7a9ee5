"""Senders that nobody here wants mail of: `/v1/blocked-senders`."""
