"""IMAP accounts: `/v1/accounts`. The login is tried before anything is stored."""
