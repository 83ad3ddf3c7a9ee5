"""Mailboxes: `/v1/mailboxes`."""
