from __future__ import annotations

import gc

from hypothesis import HealthCheck, settings

# a busy machine is no failure: hypothesis measures nothing here
settings.register_profile("postroom", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("postroom")


def pytest_collection_finish() -> None:
    """Thousands of collected tests live until the end: no collection of garbage need walk them each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
