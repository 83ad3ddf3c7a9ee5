"""The lab's DNS: zones that the caller sets, only in catch mode (DESIGN §6)."""
