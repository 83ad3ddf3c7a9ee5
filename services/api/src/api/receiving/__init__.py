"""Received mail: `/emails/receiving` as Resend has it; links to its raw form and its attachments are api.links'."""
