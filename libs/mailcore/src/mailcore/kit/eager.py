"""Work that is most often done at once: begun where it stands, and made a task only when it really has to wait.

As Python 3.12's eager tasks, for a handful of coroutines whose answers lie in a cache: a task for each would cost more than they.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Sequence
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(works: Sequence[Coroutine[Any, Any, T]], *, seconds: float) -> list[T | None]:
    """The result of each, in order. None for one that has not ended after `seconds`: it is cancelled.

    Until it first waits a coroutine runs in the caller's task, so it must not ask which that is (asyncio.timeout does). Raises what
    any of them raises; the others are cancelled then.
    """
    results: list[T | None] = [None] * len(works)
    waiting: dict[asyncio.Task[T], int] = {}
    begun = 0
    try:
        for n, work in enumerate(works):
            begun += 1
            try:
                waits_for = work.send(None)
            except StopIteration as done:
                results[n] = done.value
            else:
                waiting[asyncio.create_task(_rest(work, waits_for))] = n
        if waiting:
            await asyncio.wait(waiting, timeout=seconds)
    finally:
        for task in waiting:
            task.cancel()
        for work in works[begun:]:
            work.close()
    for task, n in waiting.items():
        if task.done() and not task.cancelled():
            results[n] = task.result()
    return results


async def _rest(work: Coroutine[Any, Any, T], waits_for: Any) -> T:
    found: T = await _delegated(work, waits_for)
    return found


@coroutine
def _delegated(work: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """What `yield from` does, of a coroutine that has been begun and waits for that future."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:
            thrown: BaseException | None = error
        else:
            thrown = None
        try:
            waits_for = work.send(sent) if thrown is None else work.throw(thrown)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
