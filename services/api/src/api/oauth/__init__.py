"""OAuth grants (resend.md §7): programs that a person let into the organization. This server gives out none."""
