"""Received mail that is held back until somebody looks at it: `/v1/quarantine`."""
