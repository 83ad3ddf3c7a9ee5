"""What would happen to a mail, without sending it."""
