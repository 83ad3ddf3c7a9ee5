"""What a check says: a line for each thing looked at, and what is wrong below it."""

from __future__ import annotations

import time
from collections.abc import Iterable


class Report:
    def __init__(self, title: str) -> None:
        self.title = title
        self.good = self.bad = 0
        self.began = time.monotonic()
        print(f"== {title}", flush=True)

    def line(self, what: str, problems: Iterable[str] = ()) -> None:
        """Good when there are no problems."""
        found = list(problems)
        self.good, self.bad = self.good + (not found), self.bad + bool(found)
        print(f"  {'FAIL' if found else 'ok  '} {what}", flush=True)
        for problem in found:
            print("       " + problem.strip().replace("\n", "\n       "), flush=True)

    def must_see(self, planted: str, problems: Iterable[str], words: str = "") -> None:
        """Good when a planted mistake was found, and for the right reason."""
        found = list(problems)
        if not found:
            self.line(f"sees {planted}", ["nobody noticed"])
        elif words not in "\n".join(found):
            self.line(f"sees {planted}", [f"expected {words!r} in:", *found])
        else:
            self.line(f"sees {planted}")

    def close(self) -> int:
        """The exit code."""
        took = time.monotonic() - self.began
        print(f"== {self.title}: {self.good} good, {self.bad} wrong, {took:.0f} s\n", flush=True)
        return 1 if self.bad else 0
