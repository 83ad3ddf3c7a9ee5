from __future__ import annotations

from collections.abc import Iterator

import pytest

from conformance.world import World, world


@pytest.fixture(scope="package")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An organization with one of everything, and a stranger."""
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made
