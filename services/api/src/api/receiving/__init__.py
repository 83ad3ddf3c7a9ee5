"""Received mail: `/emails/receiving` as Resend has it, and the signed links to its raw form and its attachments."""
