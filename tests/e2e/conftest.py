"""One running stack for all stories but those that need another; every story uses addresses of its own."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from stack import Stack

ENV = {
    "POSTROOM_RATE_LIMIT__REQUESTS_PER_SECOND": "0",  # stories ask as fast as they can
    "POSTROOM_QUEUE__SWEEP_SECONDS": "1",
    "POSTROOM_OUTBOUND__RETRY_SCHEDULE": "1,1",
    "POSTROOM_WEBHOOKS__RETRY_SCHEDULE": "1,1,1",
}


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("e2e") / "stack", env=ENV) as running:
        yield running


@pytest.fixture(scope="package")
def api(stack: Stack) -> Iterator[httpx.Client]:
    """A program with the first organization's key."""
    headers = {"authorization": f"Bearer {stack.dev['api_key']}"}
    with httpx.Client(base_url=stack.dev["api_url"], headers=headers, timeout=60) as client:
        yield client
