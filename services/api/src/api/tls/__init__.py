"""TLS of mail to and from our domains: MTA-STS policies and TLS reports (RFC 8461, RFC 8460), hosts that need certificates."""
