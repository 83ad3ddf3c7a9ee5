"""What an organization used, and its quotas (resend.md §7)."""
