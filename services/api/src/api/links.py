"""Links that need no key, as this process makes and checks them (mailcore.flow.links)."""

from __future__ import annotations

from api.context import Context
from mailcore.flow.links import IMAGE, LINK_SECONDS, RECEIVED, SENT, Link, Links

__all__ = ["IMAGE", "LINK_SECONDS", "RECEIVED", "SENT", "Link", "Links", "links"]


def links(ctx: Context) -> Links:
    return Links(ctx.keyring.derive("link"), ctx.settings.http.public_url)
