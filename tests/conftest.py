"""For all tests; and how several workers share them (`make test`): by file, but those that use one running stack together."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from own_time import Policy

# a busy machine is no failure: hypothesis measures nothing here
settings.register_profile("postroom", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("postroom")

# structlog's own way shows every local variable of a traceback, which takes seconds where the stack holds a whole test run
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(),
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

_OURS = pytest.StashKey[Path]()
FIRST = ("conformance", "e2e", "integration/postroom", "integration/outbound", "integration", "unit")
"""What boots whole stacks is given out first and the many short files last, so that all workers end at the same time."""
STACK_SECONDS = 600
"""For a test that asks a whole stack, and may have to boot it: on a busy machine that alone takes most of a minute."""
TOGETHER = {
    "tests/e2e/": "tests/e2e",
    **{f"tests/conformance/test_{name}.py": "world" for name in ("idor", "resend_api", "sdk_methods", "sdks")},
}
"""Beginnings of paths to the stack that they share. A file that is missing here costs a boot and nothing else."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Root's peers run as `nobody` and pass through our folders. Their usual place is closed again by each other run of pytest
    that begins; a folder of this run's own is not. It stays where tests failed."""
    asyncio.set_event_loop_policy(Policy())  # for every loop of these tests
    if os.getuid() == 0 and not config.option.basetemp and not hasattr(config, "workerinput"):
        config.option.basetemp = tempfile.mkdtemp(prefix="pytest-")
        config.stash[_OURS] = Path(config.option.basetemp)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and _OURS in session.config.stash:
        del session.config.stash[_OURS]


def pytest_unconfigure(config: pytest.Config) -> None:
    if (folder := config.stash.get(_OURS, None)) is not None:
        shutil.rmtree(folder, ignore_errors=True)


class _ByStack(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return next((stack for path, stack in TOGETHER.items() if file.startswith(path)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByStack | None:
    if config.option.dist != "loadfile":
        return None
    config.option.loadscopereorder = False  # in our order, not by their number of tests
    return _ByStack(config, log)  # type: ignore[arg-type]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        whole_stack = _rank(item.path) < FIRST.index("integration/outbound")
        # who gives --timeout means it: a mark would go before it
        if whole_stack and not config.option.timeout and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(STACK_SECONDS))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.path))


def _rank(file: Path) -> int:
    here = Path(os.path.relpath(file, Path(__file__).parent)).as_posix()
    return next((n for n, folder in enumerate(FIRST) if here.startswith(f"{folder}/")), len(FIRST))


def pytest_collection_finish() -> None:
    """Thousands of tests live until the end: no collection of garbage need walk them each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture
def linear() -> Iterator[None]:
    """For what strangers may make as long as they like: half a minute of the processor, however busy the machine is. Linear time is
    some seconds at most, quadratic time minutes or hours."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < 30, "this is not linear time"
