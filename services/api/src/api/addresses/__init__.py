"""Aliases and refused addresses of receiving domains: `/v1/addresses`. Mailboxes are `/v1/mailboxes`."""
