"""Nobody waits for ever for the rate limit, whatever answers in the place of Redis."""

from __future__ import annotations

import asyncio
import re

from mailcore.kit.ids import uuid7
from mailcore.queue.bell import Ringer
from mailcore.queue.rate import RateLimiter


async def test_what_answers_nonsense_leaves_the_limit_of_this_process() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65_536):
            writer.write(b"+nonsense\r\n" * len(re.findall(rb"\*\d+\r\n", octets)))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ringer = Ringer(f"redis://127.0.0.1:{port}/0", timeout_seconds=1)
    limiter = RateLimiter(ringer, 3)
    org = uuid7()
    try:
        async with asyncio.timeout(20):
            rates = await asyncio.gather(*(limiter.take(org) for _ in range(40)))
            # a second may have ended meanwhile, and then there is another window
            assert 3 <= sum(not rate.exceeded for rate in rates) <= 6
            assert any(rate.exceeded for rate in rates)
            await limiter.take(org)
    finally:
        await ringer.close()
        server.close()
