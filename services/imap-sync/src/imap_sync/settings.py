"""Everything imap-sync reads from the environment."""

from __future__ import annotations

from mailcore.kit.settings import Base


class Settings(Base):
    pass
