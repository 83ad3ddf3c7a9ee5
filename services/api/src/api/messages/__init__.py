"""Mail in mailboxes, received and mirrored: `/v1/messages`."""
