"""Mail that the catcher took instead of the world: only in catch mode (DESIGN §6)."""
