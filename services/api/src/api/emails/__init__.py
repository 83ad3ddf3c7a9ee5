"""Sending and what became of it.

parse        one object of POST /emails → flow's NewEmail, checked (resend.md §4.2; reliability.md C1)
attachments  every way in which clients write an attachment (§4.3); `path` is fetched through the guarded client (remote)
batch        an array of them, strict or permissive (§4.7)
once         Idempotency-Key → flow's Once (§2)
routes       POST /emails and /emails/batch
reading      lists, searches, one email, its deliveries
changing     reschedule, cancel, share
files        attachments of sent mail
shared       the page behind a shared link
metrics      counts by period, domain, email (§4.6)
schemas      what /openapi.json says
"""
