from __future__ import annotations

from hypothesis import HealthCheck, settings

# a busy machine is no failure: hypothesis measures nothing here
settings.register_profile("postroom", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("postroom")
