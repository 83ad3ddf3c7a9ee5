"""What a person sees in the terminal: short lines on standard output, and one clear line when nothing can be done."""

from __future__ import annotations

import sys


class CannotStart(Exception):
    """One line for the person at the terminal: what is wrong and who should do what. Ends the command with exit 1."""


def say(text: str) -> None:
    print(text, flush=True)


def warn(text: str) -> None:
    """A line that stands out where the terminal can show it."""
    print(f"\x1b[33m{text}\x1b[0m" if sys.stdout.isatty() else text, flush=True)
