"""Tokens of programs that sign in as a person: JWT (RFC 7519), HS256, for a day, and only as long as their session lives.

We take only what we made: one header, byte for byte, so that no `alg`, `kid`, `jku`, `x5u` or `crit` of a stranger is ever read
(RFC 8725 §3.1, §3.10), and a signature in its one spelling.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import jwt

from mailcore.flow.people import SignedIn
from mailcore.store.people import TOKEN_HOURS

AUDIENCE = "postroom"
MAX_TOKEN = 2_000
_CLAIMS = ["sub", "team_id", "iat", "exp", "iss", "aud", "jti"]
_SIGNATURE = re.compile("[A-Za-z0-9_-]{43}")  # of 32 bytes


@dataclass(frozen=True, slots=True)
class Claims:
    user_id: UUID
    org_id: UUID
    secret: str
    """`jti`: of the session."""


class Tokens:
    def __init__(self, key: bytes, issuer: str) -> None:
        """`key`: `keyring.derive("jwt")`. `issuer`: the public URL."""
        self._key = key
        self._issuer = issuer
        self._head = jwt.encode({}, key, "HS256").partition(".")[0]

    def make(self, signed_in: SignedIn, *, now: float | None = None) -> str:
        issued = int(time.time() if now is None else now)
        claims = {
            "sub": str(signed_in.user_id),
            "team_id": str(signed_in.org_id),
            "iat": issued,
            "exp": issued + TOKEN_HOURS * 3600,
            "iss": self._issuer,
            "aud": AUDIENCE,
            "jti": signed_in.secret,
        }
        return jwt.encode(claims, self._key, "HS256")

    def read(self, token: str) -> Claims | None:
        """None: not one of ours, changed, or over."""
        parts = token.split(".")
        if len(token) > MAX_TOKEN or len(parts) != 3 or parts[0] != self._head or not _is_canonical(parts[2]):
            return None
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=self._issuer,
                options={"require": _CLAIMS, "strict_aud": True},
            )
            json.loads(_decoded(parts[1]), object_pairs_hook=_once)
            return Claims(UUID(claims["sub"]), UUID(claims["team_id"]), str(claims["jti"]))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError):
            return None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _is_canonical(signature: str) -> bool:
    if not _SIGNATURE.fullmatch(signature):
        return False
    return base64.urlsafe_b64encode(_decoded(signature)).decode().rstrip("=") == signature


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # RFC 7519 §4: the names of claims are unique
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a claim stands twice")
    return found
