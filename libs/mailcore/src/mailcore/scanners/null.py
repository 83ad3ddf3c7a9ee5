"""The stand-in: a scanner that looks for octets, and fails when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mailcore.kit.errors import Unavailable
from mailcore.scanners.base import Facts, Finding, Kind, Verdict


class NullScanner:
    def __init__(
        self,
        found: Mapping[bytes, Finding] | None = None,
        *,
        name: str = "null",
        kind: Kind = Kind.SPAM,
        seconds: float = 10.0,
        max_bytes: int = 0,
    ) -> None:
        """`found`: octets → what is said of a mail that holds them; of any other it says `clean`."""
        self.name = name
        self.kind = kind
        self.seconds = seconds
        self.max_bytes = max_bytes
        self.found = dict(found or {})
        self.away = False
        """It does not answer."""
        self.takes = 0.0
        """Seconds it needs."""
        self.scanned: list[Facts] = []

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        self.scanned.append(facts)
        if self.away:
            raise Unavailable(f"{self.name} is away.")
        try:
            async with asyncio.timeout(self.seconds):
                await asyncio.sleep(self.takes)
        except TimeoutError:
            raise Unavailable(f"{self.name} did not answer within {self.seconds:g} s.") from None
        clean = Finding(self.name, Verdict.CLEAN)
        return next((said for octets, said in self.found.items() if octets in raw), clean)

    async def close(self) -> None:
        """It holds nothing."""
