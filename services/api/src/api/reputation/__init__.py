"""What becomes of a domain's mail, alarms, and what the operator does about them."""
