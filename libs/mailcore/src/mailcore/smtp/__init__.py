"""SMTP without sockets: envelope, addresses, replies with enhanced codes, the Outcome of a delivery (RFC 5321, 3463)."""
