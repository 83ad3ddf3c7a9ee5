"""Spamhaus Intelligence API: whether the address that handed a mail over, or the domain it is from, is known for spam.

    POST /api/v1/login                                         once; the token is kept and renewed RENEW_SECONDS before its end
    GET  /api/intel/v2/domains/tld                             once a day: below which names domains are registered
    GET  /api/intel/v1/byobject/cidr/ALL/listed/live/{ip}      404: on no list
    GET  /api/intel/v2/byobject/domain/{domain}/listing        is-listed

A token that is refused is renewed once a question; a login that fails is not tried again for LOGIN_AGAIN_SECONDS. Addresses and
domains leave this machine, nothing else of the mail does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import SecretStr

from mailcore.kit.errors import Unavailable
from mailcore.kit.guard import Answer, GuardedClient
from mailcore.kit.remember import Remembered
from mailcore.scanners.base import Facts, Finding, Kind, Verdict
from mailcore.scanners.dnsbl import public_address, sender_domains

BASE_URL = "https://api.spamhaus.org"
RENEW_SECONDS = 300.0
TLD_SECONDS = 86_400.0
LOGIN_AGAIN_SECONDS = 60.0
REMEMBERED_SECONDS = 300.0
"""How long an answer about an address or a domain is believed: whoever sends one mail mostly sends many."""
MAX_TLDS = 4 * 1024 * 1024
MAX_ANSWER = 256 * 1024
MAX_DATASETS = 10


@dataclass(frozen=True, slots=True)
class _Listing:
    listed: bool
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    renew_at: float
    """Seconds since 1970."""


class Spamhaus:
    kind = Kind.SENDER
    max_bytes = 0

    def __init__(
        self,
        client: GuardedClient,
        username: str,
        password: SecretStr,
        *,
        base_url: str = BASE_URL,
        seconds: float = 10.0,
        name: str = "spamhaus",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: seconds since 1970."""
        self.name = name
        self.seconds = seconds
        self._client = client
        self._username = username
        self._password = password
        self._base = base_url.rstrip("/")
        self._clock = clock
        self._token: _Token | None = None
        self._login = asyncio.Lock()
        self._login_failed_at = float("-inf")
        self._tlds: Remembered[str, frozenset[str]] = Remembered(self._ask_tlds, seconds=TLD_SECONDS)
        self._known: Remembered[tuple[str, str], _Listing] = Remembered(
            self._ask, seconds=REMEMBERED_SECONDS, maximum=50_000
        )

    async def scan(self, raw: bytes, facts: Facts) -> Finding:
        """Raises Unavailable."""
        ip = public_address(facts.client_ip)
        names = sender_domains(facts)[:1]
        asked = [("address", ip)] if ip is not None else []
        if names:
            asked.append(("domain", registered(names[0], await self._tlds.get("") or frozenset())))
        if not asked:
            return Finding(self.name, Verdict.SKIPPED, detail="It has no public address and no domain to ask about.")
        answers = await asyncio.gather(*(self._known.get(each) for each in asked))
        tags: list[str] = []
        words: list[str] = []
        for (_, what), answer in zip(asked, answers, strict=True):
            if answer is not None and answer.listed:
                tags += answer.datasets
                words.append(f"Spamhaus lists {what}" + (f" ({', '.join(answer.datasets)})" if answer.datasets else ""))
        if words:
            return Finding(self.name, Verdict.LISTED, tags=tuple(tags), detail="; ".join(words), reason="spamhaus")
        return Finding(self.name, Verdict.CLEAN)

    async def close(self) -> None:
        await self._client.close()

    # ---- questions -------------------------------------------------------------------------------------------------

    async def _ask(self, key: tuple[str, str]) -> _Listing:
        kind, what = key
        if kind == "address":
            answer = await self._get(f"/api/intel/v1/byobject/cidr/ALL/listed/live/{quote(what, safe=':.')}")
            results = _member(answer, "results")
            found = results if isinstance(results, list) else []
            sets = [
                each["dataset"] for each in found if isinstance(each, dict) and isinstance(each.get("dataset"), str)
            ]
            return _Listing(bool(found), tuple(dict.fromkeys(sets))[:MAX_DATASETS])
        answer = await self._get(f"/api/intel/v2/byobject/domain/{quote(what, safe='')}/listing")
        return _Listing(_member(answer, "is-listed") is True)

    async def _ask_tlds(self, _: str) -> frozenset[str]:
        names = await self._get("/api/intel/v2/domains/tld", most=MAX_TLDS)
        if not isinstance(names, list):
            raise Unavailable("Spamhaus answered with no list of top-level domains.")
        return frozenset(name.lower().strip(".") for name in names if isinstance(name, str))

    async def _get(self, path: str, *, most: int = MAX_ANSWER) -> Any:
        """What JSON says; None for 404. Raises Unavailable."""
        token = await self._current(None)
        answer = await self._send(path, token, most)
        if answer.status == 401:
            answer = await self._send(path, await self._current(token), most)
        if answer.status == 404:
            return None
        if answer.status != 200 or answer.truncated:
            raise Unavailable(f"Spamhaus answered {answer.status}.")
        return _json(answer)

    async def _send(self, path: str, token: _Token, most: int) -> Answer:
        headers = {"Authorization": f"Bearer {token.text}", "Accept": "application/json"}
        return await self._client.request(
            "GET", self._base + path, headers=headers, deadline=self.seconds, max_body=most
        )

    # ---- the token -------------------------------------------------------------------------------------------------

    async def _current(self, refused: _Token | None) -> _Token:
        """`refused`: one that is good no more. Whoever needs one waits for the login that is under way. Raises Unavailable."""
        async with self._login:
            known = self._token
            if known is not None and known is not refused and known.renew_at > self._clock():
                return known
            if self._clock() - self._login_failed_at < LOGIN_AGAIN_SECONDS:
                raise Unavailable("Spamhaus did not let us in; it is tried again in a minute.")
            try:
                self._token = token = await self._log_in()
            except Unavailable:
                self._login_failed_at = self._clock()
                raise
            return token

    async def _log_in(self) -> _Token:
        said = {"username": self._username, "password": self._password.get_secret_value(), "realm": "intel"}
        answer = await self._client.request(
            "POST",
            f"{self._base}/api/v1/login",
            headers={"Content-Type": "application/json", "Accept": "application/json"},
            content=orjson.dumps(said),
            deadline=self.seconds,
            max_body=MAX_ANSWER,
        )
        if answer.status in (401, 403):
            raise Unavailable(
                "Spamhaus refused the login. Check POSTROOM_SCANNERS__SPAMHAUS_USERNAME and __SPAMHAUS_PASSWORD."
            )
        told = _json(answer) if answer.status == 200 else None
        token, expires = _member(told, "token"), _member(told, "expires")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise Unavailable(f"Spamhaus answered the login with {answer.status} and no token.")
        now = self._clock()
        good_for = float(expires) - now if isinstance(expires, int | float) else 2 * RENEW_SECONDS
        # one that is short-lived is used for half of its life: never a login a question
        return _Token(token, now + max(good_for - RENEW_SECONDS, good_for / 2, LOGIN_AGAIN_SECONDS))


def registered(domain: str, tlds: Collection[str]) -> str:
    """The part of a domain that somebody has registered: a label more than the longest of `tlds` it ends in; of none, all of it."""
    labels = domain.split(".")
    for n in range(1, len(labels)):
        if ".".join(labels[n:]) in tlds:
            return ".".join(labels[n - 1 :])
    return domain


def _json(answer: Answer) -> Any:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise Unavailable("Spamhaus answered with something that is no JSON.") from None


def _member(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None
