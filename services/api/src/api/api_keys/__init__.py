"""API keys of an organization (resend.md §7): the token is shown once and stored as its SHA-256."""
