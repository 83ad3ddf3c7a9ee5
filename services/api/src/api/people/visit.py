"""Where a request comes from."""

from __future__ import annotations

import re

from starlette.requests import HTTPConnection

from mailcore.kit.addresses import parse_address
from mailcore.store.people import Visit

MAX_USER_AGENT = 300
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def visit(request: HTTPConnection) -> Visit:
    """The peer's address, or what a trusted proxy says it is: X-Forwarded-For of anybody else never came this far."""
    agent = _CONTROL.sub("", request.headers.get("user-agent", ""))[:MAX_USER_AGENT]
    return Visit(_address(request), agent or None)


def _address(request: HTTPConnection) -> str | None:
    if request.client is None:
        return None
    try:
        return str(parse_address(request.client.host.partition("%")[0]))
    except ValueError:
        return None
