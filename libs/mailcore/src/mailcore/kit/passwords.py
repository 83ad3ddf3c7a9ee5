"""Passwords: bcrypt at cost 12 (`$2b$12$…`), off the event loop; and which ones are taken (NIST SP 800-63B §5.1.1.2).

bcrypt reads 72 bytes. What is longer is refused when it is chosen, not cut: two passwords must not open one door.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import bcrypt

from mailcore.kit.errors import Unavailable

T = TypeVar("T")

COST = 12
MIN_CHARACTERS = 8
MAX_BYTES = 72

_NOBODYS = "$2b$12$Dxhv.z1NQz8kMwrTKASEY.E.OHpXKWaJaAr1Zq.rWUzMBcFU8Gn/C"
"""The hash of a password that nobody knows: compared where there is no user, so that both take the same work."""

# what guessing begins with; NIST wants commonly used, expected and compromised values refused
_COMMON = frozenset(
    """
    password passw0rd password1 password12 password123 password1234 password! p@ssword p@ssw0rd 12345678 123456789 1234567890
    12345678910 0123456789 87654321 987654321 11111111 111111111 1111111111 00000000 000000000 88888888 99999999 12341234
    11223344 112233445566 12344321 1q2w3e4r 1q2w3e4r5t 1qaz2wsx 1qaz2wsx3edc q1w2e3r4 qwertyui qwertyuiop qwerty12 qwerty123
    qwerty1234 qwertz123 asdfghjkl asdfasdf asdf1234 zxcvbnm1 zxcvbnm123 abcdefgh abcd1234 abc12345 abcdef123 a1b2c3d4 aa123456
    a12345678 iloveyou iloveyou1 sunshine princess football baseball superman starwars trustno1 whatever computer internet
    michelle jennifer liverpool chelsea1 arsenal1 welcome1 welcome123 letmein1 letmein123 changeme changeme1 changeme123
    administrator admin123 admin1234 adminadmin root1234 test1234 testtest test12345 testing123 default1 secret123 temp1234
    guest123 master123 monkey123 dragon123 shadow123 summer2024 summer2025 winter2024 winter2025 spring2025 autumn2025
    passwort passwort1 passwort123 hallo123 motdepasse contraseña contrasena senha123 postroom postroom1 postroom123
    """.split()  # noqa: SIM905 - a list of words reads as words
)


def weakness(password: str, about: Collection[str] = ()) -> str | None:
    """Why this password is not taken, in words for who chose it; None: it is. `about`: name and address of who chose it."""
    password = _normal(password)
    if len(password) < MIN_CHARACTERS:
        return f"A password has at least {MIN_CHARACTERS} characters."
    if len(password.encode()) > MAX_BYTES:
        return f"A password has at most {MAX_BYTES} bytes: letters beyond ASCII count for two to four."
    plain = password.casefold()
    if plain in _COMMON or len(set(plain)) < 3 or _is_run(plain):
        return "This password is among those that are tried first. Choose one that is not common."
    names = {part for text in about for part in (text.casefold(), text.casefold().partition("@")[0])}
    if plain in names:
        return "A password must not be your own name or address."
    return None


def hashed(password: str, cost: int = COST) -> str:
    """Takes a quarter of a second: not for the event loop. Raises ValueError beyond 72 bytes."""
    return bcrypt.hashpw(_normal(password).encode(), bcrypt.gensalt(cost)).decode()


def matches(password: str, stored: str | None, cost: int = COST) -> bool:
    """Takes the same time whatever is stored, nothing included."""
    given = _normal(password).encode()
    known = stored is not None and stored.startswith("$2b$") and len(given) <= MAX_BYTES
    against = stored if known and stored else _NOBODYS.replace("$12$", f"${cost:02}$", 1)
    same = bcrypt.checkpw(given[:MAX_BYTES], against.encode())
    return known and same


class Passwords:
    """Hashes in threads of its own: bcrypt leaves the interpreter to others, but not the processor."""

    def __init__(self, *, threads: int = 2, waiting: int = 64, cost: int = COST) -> None:
        """`waiting`: how many may be in line and in work; the next is told to come back. `cost`: less only in tests."""
        self._cost = cost
        self._threads = ThreadPoolExecutor(threads, "password")
        self._room = waiting
        self.hashes = 0
        """Counted for the tests of equal work."""

    async def hash(self, password: str) -> str:
        """Raises Unavailable."""
        return await self._run(lambda: hashed(password, self._cost))

    async def match(self, password: str, stored: str | None) -> bool:
        """Raises Unavailable."""
        return await self._run(lambda: matches(password, stored, self._cost))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._room <= 0:
            raise Unavailable("Many people are signing in just now. Try again in a moment.")
        self._room -= 1
        self.hashes += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        # who goes away while waiting leaves the work in line: its place is free when it is done
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[T]) -> None:
        self._room += 1
        if not future.cancelled():
            future.exception()


def _normal(password: str) -> str:
    # RFC 8265 §4.2: the same characters are the same password, however a keyboard composes them
    return unicodedata.normalize("NFC", password)


def _is_run(text: str) -> bool:
    """`abcdefghij`, `98765432`: each character next to the one before."""
    steps = {ord(b) - ord(a) for a, b in pairwise(text)}
    return steps in ({1}, {-1})
